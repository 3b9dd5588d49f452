"""What differs between operating systems: memory, processors, files, locks, signals, terminals, processes.

One file per difference. Linux is read as exactly as it tells; elsewhere psutil answers, and the standard library. With
EDGE_S2A_SYSTEM=portable in the environment Linux is read as the others are, so that this can be tested there.
"""

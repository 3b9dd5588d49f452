"""Which system this is, and what it cannot promise."""

import os
import sys

IS_FORCED = os.environ.get("EDGE_S2A_SYSTEM") == "portable"
IS_LINUX = sys.platform == "linux" and not IS_FORCED

MAXIMUM_OF_SAMPLES = "the largest sample taken between steps"
# By sys.platform: where the peak of a process's memory comes from.
PEAKS = {"darwin": "what getrusage tells", "win32": "the largest working set that Windows counted"}
PEAK = "VmHWM" if IS_LINUX else PEAKS.get("" if IS_FORCED else sys.platform, MAXIMUM_OF_SAMPLES)

NOTE = (
    None
    if IS_LINUX
    else "on this system the memory budget is planned and reported, but no kernel holds the process to it; the peak "
    f"is {PEAK}"
)
"""For whoever gives a budget; None where the promises of docs/RELIABILITY.md hold."""

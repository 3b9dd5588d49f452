"""Trains, and when some steps are done takes nearly all memory that the cgroup has left, until the training has ended.

python hog.py METRICS STEPS -- edge-s2a train ...
"""

import subprocess
import sys
import time
from pathlib import Path

from edge_s2a.system.memory_linux import cgroup_limits

LEFT_BYTES = 8 << 20
PIECE_BYTES = 1 << 20

metrics, steps = Path(sys.argv[1]), int(sys.argv[2])
process = subprocess.Popen(sys.argv[4:])
while process.poll() is None and (not metrics.exists() or metrics.read_text().count('"step"') < steps):
    time.sleep(0.02)
taken = []
while process.poll() is None and min(limit - used for limit, used in cgroup_limits(Path("/"))) > LEFT_BYTES:
    taken.append(bytearray(b"x") * PIECE_BYTES)
sys.exit(process.wait())

"""What differs between operating systems: the memory of a process, files, and giving way to another program.

Linux's kernel tells the most, and control groups enforce it. Elsewhere psutil tells what it can: the memory budget is
then planned and reported, and nothing enforces it. EDGE_S2A_SYSTEM=portable makes Linux do as the others.
"""

import os
import sys

IS_LINUX = sys.platform.startswith("linux") and os.environ.get("EDGE_S2A_SYSTEM") != "portable"
IS_WINDOWS = sys.platform == "win32"

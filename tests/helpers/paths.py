"""Where the project and the shared data lie."""

import os
from pathlib import Path

PROJECT = Path(__file__).parent.parent.parent
SHARED = Path(os.environ.get("EDGE_S2A_SHARED", PROJECT.parent / "shared"))

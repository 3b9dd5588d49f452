import sys

from edge_s2a.cli import main

sys.exit(main())

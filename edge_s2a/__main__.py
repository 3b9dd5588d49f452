import sys

from edge_s2a.cli.main import main

sys.exit(main())

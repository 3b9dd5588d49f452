"""Writes, reads and watches what a run leaves in its folder, documented in docs/RUN.md.

`schema.py` defines the files and their records once; `writer.py` writes them, `reader.py` reads them, `watch.py` shows
a run in the terminal while it goes. Nothing here needs more than Python itself.
"""

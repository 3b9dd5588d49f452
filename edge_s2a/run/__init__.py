"""Writes, reads and watches what a run leaves in its folder, and learning in one pass, documented in docs/RUN.md.

`schema.py` defines the files and their records once; `writer.py` writes them, `reader.py` reads those of a run and
`knowledge.py` those of learning. `watch.py` shows either in the terminal while it goes: `frame.py` a run, `learning.py`
what is learned. Nothing here needs more than Python itself.
"""

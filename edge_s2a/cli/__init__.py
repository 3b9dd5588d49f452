"""The command line, `edge-s2a`: one command per file. Importing it loads neither numpy nor the engine nor torch."""

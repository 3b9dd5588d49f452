"""The workstation's half: turns a torch model into an artifact, and an artifact back into other formats."""

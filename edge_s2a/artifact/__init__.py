"""The `.s2a` training artifact: see docs/FORMAT.md."""

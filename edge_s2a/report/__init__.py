"""A page about a run, and pictures of its figures, from the files of its folder. Needs the extra `report`."""

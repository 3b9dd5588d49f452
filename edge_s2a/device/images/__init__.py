"""Where the labelled images of a training come from: a dataset, or the program that trains."""

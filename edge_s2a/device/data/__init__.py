"""From image files to the inputs of a micro-batch: datasets, decoding, preprocessing, loading, and kept features."""

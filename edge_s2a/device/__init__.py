"""The on-device runtime: numpy, onnxruntime, psutil and pillow, nothing else."""

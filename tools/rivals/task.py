"""The work that tools/bench_memory.py measures, alike for all."""

BATCH = 8
STEPS = 3
IMAGE_SIZE = 224
CLASSES = 5
THREADS = 2
LEARNING_RATE = 1e-4

"""What the blocks of docs/ run with, and what a page's set-up may name."""

from tests.helpers.paths import PROJECT

# What a block that is written for the reader's terminal runs with: this tree, one thread of torch.
ENVIRONMENT = {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "NO_MKDOCS_2_WARNING": "1"}
NAMES = {"photos": "photos", "weights": "vit_demo.safetensors", "artifact": "demo.s2a", "run": "run"}

"""Classes that have images, found without what numpy loads for it."""

import subprocess
import sys

import numpy as np
import pytest

from edge_s2a.device.data.present import present
from tests.helpers.paths import PROJECT


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
@pytest.mark.parametrize("labels", [[], [0], [3, 1, 1, 200, 0]])
def test_each_number_once_and_in_order(labels, dtype):
    np.testing.assert_array_equal(present(np.array(labels, dtype)), sorted(set(labels)))


WITHOUT_MASKED_ARRAYS = """
import sys
import edge_s2a.cli.main as cli
import edge_s2a.device.training_run
has_them = "numpy.ma" in sys.modules  # an older numpy, from the start
code = cli.main(sys.argv[1:])
assert has_them or "numpy.ma" not in sys.modules, "loaded while it ran"
sys.exit(code)
"""


def test_training_loads_no_more_of_numpy(small_artifact, image_folder, tmp_path):
    """What is loaded after the plan was made is in the peak and not in the plan."""
    command = [
        "train", small_artifact, "--data", image_folder, "--output", tmp_path / "run", "--epochs", 1,
        "--memory-budget", "300MiB", "--threads", 1,
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MASKED_ARRAYS, *map(str, command)], capture_output=True, text=True, cwd=PROJECT,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

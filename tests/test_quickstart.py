"""The quick start, as the first thing a user runs."""

import time

from edge_s2a.quickstart import WEIGHTS
from tests.helpers.commands import run_command


def test_the_embedded_model_learns_handwriting_within_its_budget(tmp_path):
    start = time.monotonic()
    done = run_command("quickstart", "--output", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    result = done.json
    assert result["accuracy_before"] < 0.2
    assert result["accuracy_after"] >= 0.85
    # More than the frozen features give: the biases adapt the backbone.
    assert result["accuracy_after"] > result["linear_probe_accuracy"]
    assert result["peak_rss_bytes"] <= result["budget_bytes"]
    assert result["trainable_parameters"] < 0.02 * result["total_parameters"]
    assert time.monotonic() - start < 180
    assert (tmp_path / "run" / "best.safetensors").exists()


def test_the_embedded_checkpoint_is_small():
    assert WEIGHTS.stat().st_size <= 3_000_000

"""Memory becomes scarce while training: it ends with a checkpoint, and goes on from there to the same result."""

import json

import numpy as np
import pytest

from edge_s2a.device import trainer
from edge_s2a.errors import MemoryPressure

GIB = 1 << 30


def losses(run) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


def test_it_ends_with_a_checkpoint_and_resumes_to_the_same_losses(small_artifact, image_folder, tmp_path, monkeypatch):
    def settings(name, **changes):
        common = {"artifact": small_artifact, "data": image_folder, "threads": 1, "epochs": 2, "batch_size": 8}
        return trainer.TrainSettings(output=tmp_path / name, **{"memory_budget_bytes": 4 * GIB, **common, **changes})

    trainer.train(settings("calm"))

    answers = iter([None] * 3)  # this model is too small to be run in less
    monkeypatch.setattr(trainer, "smaller_budget", lambda *_: next(answers, 3 * GIB))
    with pytest.raises(MemoryPressure, match="memory has become scarce") as raised:
        trainer.train(settings("scarce"))
    assert len(losses(tmp_path / "scarce")) == 4
    assert raised.value.budget_bytes == 3 * GIB
    last = json.loads((tmp_path / "scarce" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["kind"] == "pressure"
    assert last["budget_bytes"] == raised.value.budget_bytes

    monkeypatch.undo()
    summary = trainer.train(settings("scarce", memory_budget_bytes=3 * GIB, resume=True))
    assert summary["epochs"] == 2
    # The same micro-batches: bit for bit.
    np.testing.assert_array_equal(losses(tmp_path / "scarce"), losses(tmp_path / "calm"))

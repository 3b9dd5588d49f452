"""Keeps what one training leaves in its folder: records, adapters and checkpoints (docs/RUN.md)."""

import contextlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edge_s2a.artifact.adapter import check_shapes, save_adapter
from edge_s2a.artifact.files import atomic_writer, locked, make_folder
from edge_s2a.device.checkpoint import has_checkpoint, load_checkpoint, remove_checkpoints, save_checkpoint
from edge_s2a.run.reader import read_predictions
from edge_s2a.run.schema import ADAPTER, BEST, CHECKPOINT, LOCK, METRICS, PREDICTIONS, MetricsLine, RunFacts, Summary
from edge_s2a.run.writer import MetricsFile, remove_results, write_facts, write_summary

if TYPE_CHECKING:
    from edge_s2a.device.training_loop import TrainingLoop


class RunFolder:
    """Within its block this process alone trains into the folder `path`.

    All methods raise UserError where another process does, or where the disk does not take what is written.
    """

    def __init__(self, path: Path):
        self.path = path
        self.best = path / BEST
        self.problem: str | None = None  # what the user is to know of its file system
        self._metrics: MetricsFile | None = None

    def __enter__(self) -> "RunFolder":
        make_folder(self.path / CHECKPOINT)
        self._lock = locked(self.path / LOCK)
        self.problem = self._lock.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            if self._metrics is not None:
                self._metrics.close()
        finally:
            self._lock.__exit__(*error)

    @property
    def has_checkpoint(self) -> bool:
        return has_checkpoint(self.path / CHECKPOINT)

    def begin(self) -> None:
        """Forgets what an earlier run left, and starts the records of a new one."""
        remove_checkpoints(self.path / CHECKPOINT)
        remove_results(self.path)
        self._metrics = MetricsFile(self.path / METRICS)

    def restore(self, loop: "TrainingLoop") -> str:
        """Sets the training to the last checkpoint, and continues its records. Returns what is wrong with a newer
        checkpoint, "" if nothing is. Raises UserError if none is whole, or if the run had another identity."""
        loop.position, damage = load_checkpoint(self.path / CHECKPOINT, loop.arrays(), loop.identity())
        self._metrics = MetricsFile(self.path / METRICS, loop.position.step, loop.position.epoch)
        check_shapes(loop.trainer.engine.adapter, loop.trainer.manifest, "checkpoint")
        return damage

    def save(self, loop: "TrainingLoop") -> None:
        """Writes both adapters and a checkpoint from which `restore` continues."""
        trainer = loop.trainer
        save_adapter(self.path / ADAPTER, trainer.engine.adapter, trainer.manifest, trainer.classes, trainer.intensity)
        save_adapter(self.best, loop.best, trainer.manifest, trainer.classes, trainer.intensity)
        save_checkpoint(self.path / CHECKPOINT, loop.position, loop.arrays(), loop.identity())

    def write(self, line: MetricsLine) -> None:
        """Adds a line to metrics.jsonl."""
        if self._metrics is None:
            raise AssertionError("begin or restore comes first")
        self._metrics.write(line)

    def write_facts(self, facts: RunFacts) -> None:
        write_facts(self.path, facts)

    def predictions(self) -> contextlib.AbstractContextManager[BinaryIO]:
        """Opens predictions.jsonl, which is replaced at the end of the block."""
        return atomic_writer(self.path / PREDICTIONS)

    def last_recall(self) -> dict[str, float]:
        """Returns class -> share of its images that were right in the last validation, from predictions.jsonl."""
        right: Counter[str] = Counter()
        images: Counter[str] = Counter()
        for line in read_predictions(self.path):
            images[line.label] += 1
            right[line.label] += line.predicted == line.label
        return {label: right[label] / count for label, count in images.items()}

    def finish(self, summary: Summary) -> None:
        """Writes summary.json, the last file of a run."""
        write_summary(self.path, summary)

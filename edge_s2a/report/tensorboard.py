"""Writes a run as events for TensorBoard."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from edge_s2a.report.record import Record
from edge_s2a.run.schema import EpochLine, StepLine

# Tag in TensorBoard -> field of the record.
OF_A_STEP = {
    "loss/step": "loss",
    "accuracy/step": "accuracy",
    "learning rate": "lr",
    "gradient norm": "gradient_norm",
    "images per second": "images_per_s",
    "memory/resident bytes": "rss_bytes",
    "temperature": "temperature_c",
}
OF_AN_EPOCH = {
    "loss/train": "train_loss",
    "loss/validation": "val_loss",
    "accuracy/train": "train_accuracy",
    "accuracy/validation": "val_accuracy",
    "memory/peak bytes": "peak_rss_bytes",
}


def write_events(record: Record, folder: Path) -> None:
    """Writes one file of events into `folder`, for `tensorboard --logdir`. Raises OSError."""
    writer = EventFileWriter(str(folder))
    for step, name, value in scalars(record):
        writer.add_event(Event(step=step, summary=Summary(value=[Summary.Value(tag=name, simple_value=value)])))
    writer.close()


def scalars(record: Record) -> Iterator[tuple[int, str, float]]:
    """Yields (step, tag, value) of every number that the run recorded."""
    steps = ((step.step, step, OF_A_STEP) for step in record.steps)
    epochs = ((end.at, end.line, OF_AN_EPOCH) for end in record.epochs)
    for at, line, fields in chain[tuple[int, StepLine | EpochLine, dict[str, str]]](steps, epochs):
        for tag, name in fields.items():
            value = getattr(line, name)
            if value is not None:
                yield at, tag, value

"""Shows what a run is and how it did, at the head of the page."""

from collections.abc import Iterable
from typing import Any

from edge_s2a.report.elements import escaped, gauge, tile
from edge_s2a.report.record import Memory, Record
from edge_s2a.report.words import human_time, mib, percent
from edge_s2a.run.compared import describe, kept
from edge_s2a.run.times import format_time


def section(record: Record) -> str:
    return f'{heading(record)}\n<div class="tiles">{"".join([*learned_tiles(record), *cost_tiles(record)])}</div>'


def heading(record: Record) -> str:
    lines = [
        sentence("adapter", record.facts.artifact.adapter),
        sentence("trained on", record.facts.settings.get("data")),
        sentence("started", human_time(record.facts.started)),
    ]
    return f"""<header>
<p class="above">{state(record)}</p>
<h1>{escaped(title_of(record))}</h1>
<p class="faint">{" · ".join(line for line in lines if line)}</p>
</header>"""


def title_of(record: Record) -> str:
    return record.facts.artifact.model or record.folder.absolute().name


def state(record: Record) -> str:
    if record.is_finished:
        return '<span class="state finished">finished</span>'
    done = record.steps[-1].step if record.steps else 0
    of_total = f" of {record.facts.steps}" if record.facts.steps else ""
    return f'<span class="state unfinished">not finished: {done}{of_total} steps</span>'


def sentence(what: str, value: Any) -> str:
    return f"{what} {escaped(value)}" if value else ""


def learned_tiles(record: Record) -> Iterable[str]:
    epochs = [end.line for end in record.epochs]
    accuracies = [epoch.val_accuracy for epoch in epochs if epoch.val_accuracy is not None]
    if accuracies:
        yield tile("Validation accuracy", percent(accuracies[-1]), f"best {percent(max(accuracies))}")
    compared = record.summary.compared if record.summary else None
    if compared is not None and compared.accuracy is not None:
        yield tile("Held-out accuracy", percent(compared.accuracy), f"{describe(compared)}; kept: {kept(compared)}")
    losses = [(epoch.train_loss, epoch.val_loss) for epoch in epochs if epoch.train_loss is not None]
    if losses:
        train, val = losses[-1]
        yield tile("Training loss", f"{train:.3f}", "" if val is None else f"validation {val:.3f}")
    trained, total = record.facts.artifact.trainable_parameters, record.facts.artifact.total_parameters
    if trained and total:
        yield tile("Trained", f"{100 * trained / total:.2f} %", f"{trained:,} of {total:,} parameters")


def cost_tiles(record: Record) -> Iterable[str]:
    yield from memory_tiles(record.memory)
    if record.steps:
        images = sum(step.images_per_s * step.seconds for step in record.steps)
        seconds = sum(step.seconds for step in record.steps)
        whole = record.summary.seconds if record.summary else None
        rate = f"{images / seconds:.1f} images/s in steps" if seconds else ""
        yield tile("Time", format_time(whole or seconds), rate)


def memory_tiles(memory: Memory) -> Iterable[str]:
    peak, budget = memory.peak_bytes, memory.budget_bytes
    if peak:
        note = f"of {mib(budget)}" if budget else ""
        planned = f", planned {mib(memory.predicted_bytes)}" if memory.predicted_bytes else ""
        yield tile("Peak memory", mib(peak), note + planned, gauge(peak, budget) if budget else "")

"""Draws a frame about a run: how far it is, how well it learns, and what it takes."""

from edge_s2a.run.compared import describe, kept
from edge_s2a.run.convert import number
from edge_s2a.run.events import describe_event
from edge_s2a.run.schema import StepLine
from edge_s2a.run.text import (
    WIDEST,
    Line,
    Piece,
    bar,
    bar_width,
    cut,
    heading,
    labelled,
    memory,
    percent,
    sparkline,
    visible,
)
from edge_s2a.run.times import format_time
from edge_s2a.run.view import RECENT_STEPS, View, mean


def frame(view: View, width: int, height: int, now_s: float) -> list[Line]:
    """Returns at most `height` lines of at most `width` columns. now_s: seconds since 1970."""
    width = min(width, WIDEST)
    lines = [*head(view, width, now_s), [], *measures(view, width)]
    events = event_lines(view, height - len(lines) - 2)
    if events:
        lines += [[], *events]
    return [cut(line, width) for line in lines[:height]]


def head(view: View, width: int, now_s: float) -> list[Line]:
    artifact, data = view.facts.artifact, view.facts.settings.get("data")
    state = view.state(now_s)
    colour = {"finished": "green", "running": "cyan", "starting": "cyan"}.get(state, "yellow")
    title = " ".join(filter(None, (artifact.model, artifact.adapter))) or view.folder.name
    source = "" if data is None else f"{data} → "
    return heading(title, state, colour, f"{source}{view.folder}", width)


def measures(view: View, width: int) -> list[Line]:
    step = view.step
    if step is None:
        return [progress(view, width), *compared_with_learned(view), memory_of(view, width)]
    return [
        progress(view, width),
        loss(view, width),
        accuracy(view, step),
        *compared_with_learned(view),
        rates(step),
        memory_of(view, width),
        *([] if step.temperature_c is None else [temperature(view, step.temperature_c)]),
    ]


def progress(view: View, width: int) -> Line:
    done, total = view.steps, view.total_steps
    if not total:
        return labelled("progress", Piece(f"{done} steps" if done else "no step yet"))
    epochs = number(view.facts.settings.get("epochs"))
    left_s = view.seconds_left()
    text = f" {done}/{total}"
    text += "" if view.step is None else f"  epoch {view.step.epoch}" + ("" if epochs is None else f"/{epochs}")
    text += "" if left_s is None else f"  {format_time(left_s)} left"
    return labelled("progress", *bar(done / total, bar_width(text, width), "cyan"), Piece(text))


def loss(view: View, width: int) -> Line:
    val_loss = None if view.epoch is None else view.epoch.val_loss
    text = f" {mean(view.losses[-RECENT_STEPS:]):.4f}" + ("" if val_loss is None else f"  val {val_loss:.4f}")
    return labelled("loss", Piece(sparkline(view.losses, bar_width(text, width)), "cyan"), Piece(text))


def accuracy(view: View, step: StepLine) -> Line:
    """Shows the accuracies of the last epoch; that of the last step before there is an epoch."""
    val, train = (None, None) if view.epoch is None else (view.epoch.val_accuracy, view.epoch.train_accuracy)
    values = (("val", val), ("best", view.best_accuracy), ("train", train))
    texts = [f"{name} {percent(value)}" for name, value in values if value is not None]
    return labelled("accuracy", Piece("  ".join(texts) or f"step {percent(step.accuracy)}"))


def compared_with_learned(view: View) -> list[Line]:
    compared = None if view.summary is None else view.summary.compared
    if compared is None:
        return []
    return [labelled("held out", Piece(describe(compared))), labelled("kept", Piece(kept(compared)))]


def rates(step: StepLine) -> Line:
    return labelled("rate", Piece(f"lr {step.lr:.2e}  {step.images_per_s:.1f} images/s"))


def memory_of(view: View, width: int) -> Line:
    return memory(view.resident_bytes, view.budget_bytes, view.facts.plan.predicted_peak_bytes, width)


def temperature(view: View, degrees: float) -> Line:
    limit = number(view.facts.settings.get("max_temperature_c"))
    is_hot = limit is not None and degrees >= limit
    rests = "" if limit is None else f"  rests from {limit:g} °C"
    return labelled("heat", Piece(f"{degrees:.1f} °C", "red" if is_hot else ""), Piece(rests, "faint"))


def event_lines(view: View, most: int) -> list[Line]:
    """Shows the last `most` events, the newest at the bottom."""
    shown = view.events[-most:] if most > 0 else []
    return [
        [
            Piece(f"step {'?' if event.step is None else event.step}: ", "faint"),
            Piece(visible(describe_event(event)), "yellow"),
        ]
        for event in shown
    ]

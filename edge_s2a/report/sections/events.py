"""Shows what happened on the way: temperature, events, and images that could not be used."""

from matplotlib.axes import Axes

from edge_s2a.report.charts import Picture, Theme, legend, points_of, steps_axis, thinned
from edge_s2a.report.elements import card, cards, paragraph, table, titled
from edge_s2a.report.record import Record
from edge_s2a.report.words import NOTHING, sentence_case
from edge_s2a.run.convert import number
from edge_s2a.run.events import describe_event


def section(record: Record, figures: dict[str, str]) -> str:
    temperature = [figures["temperature"]] if "temperature" in figures else []
    return titled("On the way", cards([*temperature, events(record), skipped_images(record)]))


def events(record: Record) -> str:
    rows = [
        (NOTHING if event.step is None else str(event.step), sentence_case(describe_event(event)))
        for event in record.events
    ]
    nothing = paragraph("Nothing out of the ordinary has happened.")
    return card("Events", table(("step", "what happened"), rows) if rows else nothing)


def skipped_images(record: Record) -> str:
    skipped = record.summary.skipped if record.summary else {}
    if skipped:
        return card("Skipped images", table(("image", "why"), list(skipped.items())))
    count = record.epochs[-1].line.skipped_images if record.epochs else None
    text = f"{count} so far; the finished run names them." if count and not record.is_finished else "None."
    return card("Skipped images", paragraph(text))


def pictures(record: Record) -> list[Picture]:
    """Returns the curve of the temperature, of a device that tells it."""
    if all(step.temperature_c is None for step in record.steps):
        return []
    picture = Picture(
        "temperature", "Temperature", "Of the hottest zone of the device, after each step.",
        lambda axes, theme: draw_temperature(axes, theme, record),
    )  # fmt: skip
    return [picture]


def draw_temperature(axes: Axes, theme: Theme, record: Record) -> None:
    x, y = points_of((step.step, step.temperature_c) for step in record.steps)
    axes.plot(thinned(x), thinned(y), color=theme.orange, label="hottest zone")
    limit = number(record.facts.settings.get("max_temperature_c"))
    if limit is not None and limit < 1.5 * max(y):
        axes.axhline(limit, color=theme.red, linewidth=1.3, label="rests from here on")
        axes.set_ylim(top=max(limit, *y) + 4)
    axes.set_ylabel("°C")
    steps_axis(axes)
    legend(axes)

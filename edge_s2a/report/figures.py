"""The figures of a report: each draws a part of a record in a theme's colours."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator, PercentFormatter

from edge_s2a.report.confusion import Confusion, matrix, shown_classes
from edge_s2a.report.record import Record
from edge_s2a.run.reader import MIB, number, section

MOST_POINTS = 240  # of a curve: as many as can be told apart
WIDTH, HEIGHT = 4.3, 2.7  # inches: small enough for a telephone to shrink, large enough for a screen to enlarge
LONGEST_NAME, LONGEST_PART = 18, 26  # characters of a class, and of a part of the plan
MOST_NUMBERED_CLASSES = 14  # cells of more are too small for numbers
TIME_UNITS = ((7200, 3600, "hours"), (180, 60, "minutes"), (0, 1, "seconds"))  # from so many seconds on


class Theme(NamedTuple):
    name: str
    surface: str
    text: str
    faint: str
    grid: str
    blue: str
    orange: str
    green: str
    red: str


LIGHT = Theme("light", "#ffffff", "#1b2330", "#66707f", "#e4e8ee", "#2563cf", "#d4631a", "#12875f", "#c8323f")
DARK = Theme("dark", "#161b22", "#e2e8f0", "#8b97a8", "#2a313c", "#6ba1ff", "#f59a52", "#43c59a", "#ff7b84")
Draw = Callable[[Axes, Theme], None]


class Picture(NamedTuple):
    name: str  # of its file, and in the page
    title: str
    caption: str  # a sentence or two
    draw: Draw
    size: tuple[float, float] = (WIDTH, HEIGHT)  # inches


def pictures(record: Record, confusion: Confusion) -> list[Picture]:
    """Those that the record has something for."""
    return [
        *(_of_steps(record) if record.steps else []),
        *([_plan(record)] if section(record.plan, "parts") else []),
        *([_confusion(record, confusion)] if confusion.images else []),
    ]


def plan_height(record: Record) -> float:
    """Inches: of as many rows as the plan has parts."""
    return 0.27 * len(section(record.plan, "parts")) + 1.15


def _of_steps(record: Record) -> list[Picture]:
    learning = [
        Picture("loss", "Loss", "Cross-entropy of each step, with label smoothing, and over whole epochs.",
                lambda axes, theme: draw_loss(axes, theme, record)),
        Picture("accuracy", "Accuracy", "Share of images whose likeliest class is right.",
                lambda axes, theme: draw_accuracy(axes, theme, record)),
        Picture("learning_rate", "Learning rate", "Of the structural modules, at each step.",
                lambda axes, theme: draw_learning_rate(axes, theme, record)),
        Picture("throughput", "Throughput", "Images a second within each step, reading them included.",
                lambda axes, theme: draw_throughput(axes, theme, record)),
        Picture("memory", "Resident memory", "Of the whole process after each step, against its budget.",
                lambda axes, theme: draw_memory(axes, theme, record), (WIDTH, max(HEIGHT, plan_height(record)))),
    ]  # fmt: skip
    if any(number(step.get("temperature_c")) is not None for step in record.steps):
        learning.append(
            Picture("temperature", "Temperature", "Of the hottest zone of the device, after each step.",
                    lambda axes, theme: draw_temperature(axes, theme, record))
        )  # fmt: skip
    return learning


def _plan(record: Record) -> Picture:
    return Picture(
        "plan", "Planned and measured", "What the predicted peak is made of, and the peak that the kernel counted.",
        lambda axes, theme: draw_plan(axes, theme, record), (WIDTH, plan_height(record)),
    )  # fmt: skip


def _confusion(record: Record, confusion: Confusion) -> Picture:
    names = shown_classes(confusion, record.classes)
    left_out = len({label for label, _ in confusion.counts}) > len(names)
    caption = "Share of each class's images, by the class predicted; the diagonal is right."
    caption += f" The {len(names)} classes with most errors are shown." if left_out else ""
    side = min(9.5, 2.0 + 0.3 * len(names))
    return Picture(
        "confusion", "Confusion matrix", caption,
        lambda axes, theme: draw_confusion(axes, theme, confusion, names), (max(WIDTH, side), max(3.4, side - 0.4)),
    )  # fmt: skip


# -- one function a figure -----------------------------------------------------------------------------


def draw_loss(axes: Axes, theme: Theme, record: Record) -> None:
    _curves(axes, theme, record, "loss")
    axes.set_ylabel("cross-entropy")


def draw_accuracy(axes: Axes, theme: Theme, record: Record) -> None:
    _curves(axes, theme, record, "accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=" %"))


def _curves(axes: Axes, theme: Theme, record: Record, name: str) -> None:
    """Each step faintly, whole epochs of training and validation strongly."""
    x, y = thinned(record, name)
    axes.plot(x, y, color=theme.blue, alpha=0.45, linewidth=0.9, label="step")
    for kind, colour, label in (("train", theme.blue, "train"), ("val", theme.orange, "validation")):
        points = [(line["at"], number(line.get(f"{kind}_{name}"))) for line in record.epochs]
        points = [(at, value) for at, value in points if value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, label=label, **_marks(len(points), theme))
    _steps_axis(axes)
    _legend(axes)


def draw_learning_rate(axes: Axes, theme: Theme, record: Record) -> None:
    x, y = thinned(record, "lr")
    axes.fill_between(x, y, color=theme.blue, alpha=0.12, linewidth=0)
    axes.plot(x, y, color=theme.blue)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=False)
    _steps_axis(axes)


def draw_throughput(axes: Axes, theme: Theme, record: Record) -> None:
    x, y = thinned(record, "images_per_s")
    axes.plot(x, y, color=theme.green)
    axes.set_ylim(0, 1.12 * max(y))
    axes.set_ylabel("images/s")
    _steps_axis(axes)


def draw_memory(axes: Axes, theme: Theme, record: Record) -> None:
    seconds = record.training_s
    divisor, unit = time_unit(seconds[-1])
    x = means(np.array(seconds) / divisor)
    y = means(np.array([step["rss_bytes"] for step in record.steps]) / MIB)
    axes.fill_between(x, y, color=theme.blue, alpha=0.16, linewidth=0)
    axes.plot(x, y, color=theme.blue, label="resident")
    lines = [
        ("peak", record.peak_bytes, theme.blue, ":"),
        ("planned", record.predicted_bytes, theme.orange, (0, (4, 2))),
        ("budget", record.budget_bytes, theme.red, "-"),
    ]
    for label, size, colour, style in lines:
        if size:
            axes.axhline(size / MIB, color=colour, linestyle=style, linewidth=1.3, label=label)
    axes.set_ylim(0, 1.1 * max([*y, *(size / MIB for _, size, _, _ in lines if size)]))
    axes.set_xlim(left=0)
    axes.set_ylabel("MiB")
    axes.set_xlabel(f"{unit} in steps")
    _legend(axes)


def draw_temperature(axes: Axes, theme: Theme, record: Record) -> None:
    points = [(step["step"], number(step.get("temperature_c"))) for step in record.steps]
    x, y = (np.array(column, float) for column in zip(*(p for p in points if p[1] is not None), strict=True))
    axes.plot(means(x), means(y), color=theme.orange, label="hottest zone")
    limit = number(record.settings.get("max_temperature_c"))
    if limit is not None and limit < 1.5 * y.max():
        axes.axhline(limit, color=theme.red, linewidth=1.3, label="rests from here on")
        axes.set_ylim(top=max(limit, y.max()) + 4)
    axes.set_ylabel("°C")
    _steps_axis(axes)
    _legend(axes)


def draw_plan(axes: Axes, theme: Theme, record: Record) -> None:
    """A fall of parts that add up to the predicted peak, the measured one below it."""
    parts = [(name, number(size) or 0) for name, size in section(record.plan, "parts").items()]
    totals = [
        ("predicted peak", record.predicted_bytes, theme.orange),
        ("measured peak", record.peak_bytes, theme.blue),
    ]
    totals = [total for total in totals if total[1]]
    largest = max([sum(size for _, size in parts), *(size for _, size, _ in totals), record.budget_bytes or 0])
    start = 0.0
    for row, (_, size) in enumerate(parts):
        axes.barh(row, size / MIB, left=start / MIB, height=0.62, color=theme.blue, alpha=0.45)
        is_far = start + size > 0.75 * largest
        _size_label(axes, theme.faint, row, start if is_far else start + size, size, is_left=is_far)
        start += size
        if row + 1 < len(parts):
            axes.plot([start / MIB] * 2, [row - 0.31, row + 1.31], color=theme.faint, linewidth=0.6)
    for row, (_, size, colour) in enumerate(totals, len(parts)):
        axes.barh(row, size / MIB, height=0.62, color=colour)
        _size_label(axes, theme.surface, row, size, size, is_left=True)
    names = [label_of(name, LONGEST_PART) for name, _ in parts] + [name for name, _, _ in totals]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    if record.budget_bytes:
        axes.axvline(record.budget_bytes / MIB, color=theme.red, linewidth=1.3, label="budget")
        _legend(axes)
    axes.set_xlim(0, 1.06 * largest / MIB or 1)
    axes.set_xlabel("MiB")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _size_label(axes: Axes, colour: str, row: int, end: float, size: float, is_left: bool) -> None:
    """Beside the place `end` of a bar."""
    axes.annotate(
        f"{size / MIB:.1f}", (end / MIB, row), (-4 if is_left else 4, 0), textcoords="offset points", va="center",
        ha="right" if is_left else "left", fontsize=8, color=colour,
    )  # fmt: skip


def draw_confusion(axes: Axes, theme: Theme, confusion: Confusion, names: list[str]) -> None:
    counts = matrix(confusion, names)
    totals = {name: sum(count for (label, _), count in confusion.counts.items() if label == name) for name in names}
    shares = counts / np.maximum([[totals[name]] for name in names], 1)
    colours = LinearSegmentedColormap.from_list("shares", [theme.grid, theme.blue])
    axes.pcolormesh(shares**0.6, cmap=colours, vmin=0, vmax=1, edgecolors=theme.surface, linewidth=1)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    labels = [label_of(name) for name in names]
    places = np.arange(len(names)) + 0.5
    size = 9 if len(names) <= 20 else 7
    is_long = max(map(len, labels)) > 2
    axes.set_xticks(places, labels, fontsize=size, rotation=45 if is_long else 0, ha="right" if is_long else "center",
                    rotation_mode="anchor" if is_long else "default")  # fmt: skip
    axes.set_yticks(places, labels, fontsize=size)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(names) <= MOST_NUMBERED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = theme.surface if shares[row, column] > 0.45 else theme.text
                axes.text(column + 0.5, row + 0.52, str(count), ha="center", va="center", fontsize=8, color=colour)


# -- parts of figures ----------------------------------------------------------------------------------


def means(values: np.ndarray) -> np.ndarray:
    """float (at most MOST_POINTS,): of equal parts of `values`, which has one at least."""
    return np.array([part.mean() for part in np.array_split(values, min(MOST_POINTS, len(values)))])


def thinned(record: Record, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values), float (points,) each."""
    return tuple(means(np.array([step[key] for step in record.steps], float)) for key in ("step", name))


def time_unit(seconds: float) -> tuple[int, str]:
    """(seconds, name) of the unit in which `seconds` reads best."""
    return next((divisor, name) for least, divisor, name in TIME_UNITS if seconds >= least)


def label_of(name: str, longest: int = LONGEST_NAME) -> str:
    """What a font can draw of it and a figure has room for: names come from folders."""
    text = "".join(character if character.isprintable() else "�" for character in name)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _marks(count: int, theme: Theme) -> dict:
    return {"marker": "o", "markersize": 4.5 if count <= 30 else 0, "markeredgecolor": theme.surface}


def _steps_axis(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, borderaxespad=0.2)

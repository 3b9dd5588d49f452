"""Shows the memory of a run against its plan and its budget."""

from itertools import accumulate
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from edge_s2a.report.charts import HEIGHT, WIDTH, Picture, Theme, label_of, legend, thinned
from edge_s2a.report.elements import cards, titled
from edge_s2a.report.record import Memory, Record
from edge_s2a.sizes import MIB

FIGURES = ("memory", "plan")
LONGEST_PART = 26  # characters of a part of the plan
MOST_PARTS = 50  # more than a plan has; a damaged file may hold any number
TIME_UNITS = ((7200, 3600, "hours"), (180, 60, "minutes"), (0, 1, "seconds"))  # from so many seconds on


def section(figures: dict[str, str]) -> str:
    content = cards(figures[name] for name in FIGURES if name in figures)
    return titled("Memory", content) if content else ""


def pictures(record: Record) -> list[Picture]:
    """Returns the figures that the record has something for."""
    resident = Picture(
        "memory", "Resident memory", "Of the whole process after each step, against its budget.",
        lambda axes, theme: draw_memory(axes, theme, record), (WIDTH, max(HEIGHT, plan_height(record.memory))),
    )  # fmt: skip
    return [*([resident] if record.steps else []), *plan_pictures(record.memory)]


def plan_pictures(memory: Memory) -> list[Picture]:
    """Returns the figure of a plan whose parts are known."""
    picture = Picture(
        "plan", "Planned and measured", "What the predicted peak is made of, and the peak that the kernel counted.",
        lambda axes, theme: draw_plan(axes, theme, memory), (WIDTH, plan_height(memory)),
    )  # fmt: skip
    return [picture] if 0 < len(memory.parts) <= MOST_PARTS else []


def plan_height(memory: Memory) -> float:
    """Returns the inches of a chart with a row for each part of the plan."""
    return 0.27 * len(memory.parts) + 1.15


class Level(NamedTuple):
    """A size that the chart of memory shows as a horizontal line."""

    label: str
    size: int  # bytes
    colour: str
    style: Any  # of the line, as matplotlib has it


def draw_memory(axes: Axes, theme: Theme, record: Record) -> None:
    seconds = list(accumulate(step.seconds for step in record.steps))
    divisor, unit = time_unit(seconds[-1])
    x = thinned(value / divisor for value in seconds)
    y = thinned(step.rss_bytes / MIB for step in record.steps)
    axes.fill_between(x, y, color=theme.blue, alpha=0.16, linewidth=0)
    axes.plot(x, y, color=theme.blue, label="resident")
    levels = [
        Level("peak", record.peak_bytes or 0, theme.blue, ":"),
        Level("planned", record.predicted_bytes or 0, theme.orange, (0, (4, 2))),
        Level("budget", record.budget_bytes or 0, theme.red, "-"),
    ]
    levels = [level for level in levels if level.size]
    for label, size, colour, style in levels:
        axes.axhline(size / MIB, color=colour, linestyle=style, linewidth=1.3, label=label)
    axes.set_ylim(0, 1.1 * max([*y, *(level.size / MIB for level in levels)]))
    axes.set_xlim(left=0)
    axes.set_ylabel("MiB")
    axes.set_xlabel(f"{unit} in steps")
    legend(axes)


def time_unit(seconds: float) -> tuple[int, str]:
    """Returns (seconds, name) of the unit in which `seconds` reads best."""
    return next((divisor, name) for least, divisor, name in TIME_UNITS if seconds >= least)


def draw_plan(axes: Axes, theme: Theme, memory: Memory) -> None:
    """Draws the parts as a fall that adds up to the predicted peak, and the measured peak below it."""
    parts = list(memory.parts.items())
    totals = [
        ("predicted peak", memory.predicted_bytes or 0, theme.orange),
        ("measured peak", memory.peak_bytes or 0, theme.blue),
    ]
    totals = [total for total in totals if total[1]]
    budget = memory.budget_bytes or 0
    largest = max(sum(size for _, size in parts), budget, *(size for _, size, _ in totals))
    start = 0
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
    if budget:
        axes.axvline(budget / MIB, color=theme.red, linewidth=1.3, label="budget")
        legend(axes)
    axes.set_xlim(0, 1.06 * largest / MIB or 1)
    axes.set_xlabel("MiB")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _size_label(axes: Axes, colour: str, row: int, end: int, size: int, is_left: bool) -> None:
    """Writes a size beside the place `end` of a bar; both in bytes."""
    axes.annotate(
        f"{size / MIB:.1f}", (end / MIB, row), (-4 if is_left else 4, 0), textcoords="offset points", va="center",
        ha="right" if is_left else "left", fontsize=8, color=colour,
    )  # fmt: skip

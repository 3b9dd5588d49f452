"""Holds what the figures of a report share: themes, and parts of charts."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

MOST_POINTS = 240  # of a curve: as many as can be told apart
WIDTH, HEIGHT = 4.3, 2.7  # inches: small enough for a telephone to shrink, large enough for a screen to enlarge
LONGEST_NAME = 18  # characters of a class


class Theme(NamedTuple):
    """Colours of a figure, as CSS has them."""

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
    """A figure of the report, and how to draw it."""

    name: str  # of its file, and in the page
    title: str
    caption: str  # a sentence or two
    draw: Draw
    size: tuple[float, float] = (WIDTH, HEIGHT)  # inches


def thinned(values: Iterable[float]) -> np.ndarray:
    """Returns float64 (at most MOST_POINTS,): the means of equal parts of `values`, of which there is at least one."""
    array = np.array(list(values), float)
    return np.array([part.mean() for part in np.array_split(array, min(MOST_POINTS, len(array)))])


def points_of(pairs: Iterable[tuple[int, float | None]]) -> tuple[list[int], list[float]]:
    """Returns (x, y) of those pairs that have a value."""
    points = [(x, y) for x, y in pairs if y is not None]
    return [x for x, _ in points], [y for _, y in points]


def label_of(name: str, longest: int = LONGEST_NAME) -> str:
    """Returns what a font can draw of a name and a figure has room for: names come from folders."""
    text = "".join(character if character.isprintable() else "�" for character in name)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def marks(points: Sequence[float], theme: Theme) -> dict[str, Any]:
    """Returns the options of a line that marks its points, unless they are many."""
    return {"marker": "o", "markersize": 4.5 if len(points) <= 30 else 0, "markeredgecolor": theme.surface}


def steps_axis(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def legend(axes: Axes) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, borderaxespad=0.2)

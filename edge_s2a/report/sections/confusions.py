"""Shows which classes the last validation took for which, and the images it was wrong about."""

from collections import Counter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from edge_s2a.report.charts import WIDTH, Picture, Theme, label_of
from edge_s2a.report.confusion import Confusion, matrix, shown_classes
from edge_s2a.report.elements import card, cards, escaped, paragraph, table, titled
from edge_s2a.report.words import percent

MOST_RECALLS = 12  # classes in the table of recalls
MOST_NUMBERED_CLASSES = 14  # cells of more are too small for numbers


def section(confusion: Confusion, figures: dict[str, str], thumbnails: dict[str, str]) -> str:
    """thumbnails: image -> data URI, of those that could be read."""
    if not confusion.images:
        return titled("Confusions", paragraph("No validation has left its predictions yet."))
    right = confusion.images - confusion.wrong
    said = paragraph(f"The last validation: {right} of {confusion.images} images right, {confusion.wrong} wrong.")
    parts = (figures.get("confusion"), recalls(confusion), worst_pairs(confusion))
    matrix_and_pairs = cards(part for part in parts if part)
    images = worst_images(confusion, thumbnails) if confusion.wrong else ""
    return titled("Confusions", said + matrix_and_pairs + images)


def recalls(confusion: Confusion) -> str:
    found = recall_of(confusion)
    weakest = sorted(found, key=lambda label: found[label])[:MOST_RECALLS]
    mean = sum(found.values()) / len(found)
    title = f"Right of each class, the weakest first; {percent(mean)} on average"
    return card(title, table(("class", "recall"), [(label, percent(found[label])) for label in weakest]))


def recall_of(confusion: Confusion) -> dict[str, float]:
    """Returns class -> share of its images that are right."""
    totals: Counter[str] = Counter()
    for (label, _), count in confusion.counts.items():
        totals[label] += count
    return {label: confusion.counts[label, label] / total for label, total in totals.items()}


def worst_pairs(confusion: Confusion) -> str:
    rows = [(label, predicted, str(count)) for label, predicted, count in confusion.worst_pairs]
    return card("Taken for another most often", table(("true", "predicted", "images"), rows)) if rows else ""


def worst_images(confusion: Confusion, thumbnails: dict[str, str]) -> str:
    title = "Wrong, and surest of it"
    items = [
        f'<li><img src="{thumbnails[line.image]}" alt="{escaped(line.image)}" title="{escaped(line.image)}">'
        f'<div class="wrong" title="{escaped(line.predicted)}">{escaped(line.predicted)}, '
        f"{percent(probability)}</div>"
        f'<div title="{escaped(line.label)}">is <span class="right">{escaped(line.label)}</span></div></li>'
        for probability, line in confusion.worst
        if line.image in thumbnails
    ]
    if not items:
        return card(title, paragraph("The images themselves are no longer where the run found them."))
    gone = len(confusion.worst) - len(items)
    note = f"{gone} more are no longer where the run found them." if gone else ""
    return card(title, f'<ul class="images">{"".join(items)}</ul>' + (paragraph(note) if note else ""))


def pictures(confusion: Confusion, classes: list[str]) -> list[Picture]:
    """Returns the confusion matrix, where there is a prediction."""
    if not confusion.images:
        return []
    names = shown_classes(confusion, classes)
    left_out = len({label for label, _ in confusion.counts}) > len(names)
    caption = "Share of each class's images, by the class predicted; the diagonal is right."
    caption += f" The {len(names)} classes with most errors are shown." if left_out else ""
    side = min(9.5, 2.0 + 0.3 * len(names))
    picture = Picture(
        "confusion", "Confusion matrix", caption,
        lambda axes, theme: draw_confusion(axes, theme, confusion, names), (max(WIDTH, side), max(3.4, side - 0.4)),
    )  # fmt: skip
    return [picture]


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

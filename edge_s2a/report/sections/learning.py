"""Shows how the model learned: loss, accuracy, learning rate and throughput."""

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from edge_s2a.report.charts import Picture, Theme, legend, marks, points_of, steps_axis, thinned
from edge_s2a.report.elements import cards, paragraph, titled
from edge_s2a.report.record import Record

FIGURES = ("loss", "accuracy", "learning_rate", "throughput")


def section(figures: dict[str, str]) -> str:
    content = cards(figures[name] for name in FIGURES if name in figures)
    return titled("Learning", content or paragraph("No step has been recorded yet."))


def pictures(record: Record) -> list[Picture]:
    """Returns the figures of a record that has a step."""
    if not record.steps:
        return []
    return [
        Picture("loss", "Loss", "Cross-entropy of each step, with label smoothing, and over whole epochs.",
                lambda axes, theme: draw_loss(axes, theme, record)),
        Picture("accuracy", "Accuracy", "Share of images whose likeliest class is right.",
                lambda axes, theme: draw_accuracy(axes, theme, record)),
        Picture("learning_rate", "Learning rate", "Of the structural modules, at each step.",
                lambda axes, theme: draw_learning_rate(axes, theme, record)),
        Picture("throughput", "Throughput", "Images a second within each step, reading them included.",
                lambda axes, theme: draw_throughput(axes, theme, record)),
    ]  # fmt: skip


def draw_loss(axes: Axes, theme: Theme, record: Record) -> None:
    _draw_steps(axes, theme, record, [step.loss for step in record.steps])
    _draw_epochs(axes, theme, theme.blue, "train", [(end.at, end.line.train_loss) for end in record.epochs])
    _draw_epochs(axes, theme, theme.orange, "validation", [(end.at, end.line.val_loss) for end in record.epochs])
    steps_axis(axes)
    legend(axes)
    axes.set_ylabel("cross-entropy")


def draw_accuracy(axes: Axes, theme: Theme, record: Record) -> None:
    _draw_steps(axes, theme, record, [step.accuracy for step in record.steps])
    _draw_epochs(axes, theme, theme.blue, "train", [(end.at, end.line.train_accuracy) for end in record.epochs])
    _draw_epochs(axes, theme, theme.orange, "validation", [(end.at, end.line.val_accuracy) for end in record.epochs])
    steps_axis(axes)
    legend(axes)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=" %"))


def draw_learning_rate(axes: Axes, theme: Theme, record: Record) -> None:
    x, y = thinned(step.step for step in record.steps), thinned(step.lr for step in record.steps)
    axes.fill_between(x, y, color=theme.blue, alpha=0.12, linewidth=0)
    axes.plot(x, y, color=theme.blue)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=False)
    steps_axis(axes)


def draw_throughput(axes: Axes, theme: Theme, record: Record) -> None:
    x, y = thinned(step.step for step in record.steps), thinned(step.images_per_s for step in record.steps)
    axes.plot(x, y, color=theme.green)
    axes.set_ylim(0, 1.12 * max(y))
    axes.set_ylabel("images/s")
    steps_axis(axes)


def _draw_steps(axes: Axes, theme: Theme, record: Record, values: list[float]) -> None:
    """Draws the value of each step, faintly."""
    x = thinned(step.step for step in record.steps)
    axes.plot(x, thinned(values), color=theme.blue, alpha=0.45, linewidth=0.9, label="step")


def _draw_epochs(axes: Axes, theme: Theme, colour: str, label: str, pairs: list[tuple[int, float | None]]) -> None:
    """Draws the values of whole epochs, strongly. pairs: step, value."""
    x, y = points_of(pairs)
    if x:
        axes.plot(x, y, color=colour, label=label, **marks(x, theme))

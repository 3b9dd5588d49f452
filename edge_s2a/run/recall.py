"""Says in words how well each class is recognised."""

from collections.abc import Mapping

from edge_s2a.run.text import percent, visible

WEAK_RECALL = 0.2  # at most, of a class that is hardly ever recognised
GOOD_ACCURACY = 0.5  # at least, of a classifier that knows something: before that, all classes are weak
MOST_LISTED = 8


def weak_classes(accuracy: float | None, recall: Mapping[str, float]) -> list[str]:
    """The classes that are hardly ever recognised by a classifier that is right as a rule, the weakest first."""
    if accuracy is None or accuracy < GOOD_ACCURACY:
        return []
    return sorted((name for name in recall if recall[name] <= WEAK_RECALL), key=lambda name: recall[name])


def listed(recall: Mapping[str, float], names: list[str]) -> str:
    """The recalls of these classes, or of the first of them."""
    texts = [f"{visible(name)} {percent(recall[name])}" for name in names[:MOST_LISTED]]
    return ", ".join(texts) + (", ..." if len(names) > MOST_LISTED else "")


def warning(accuracy: float | None, recall: Mapping[str, float], remedy: str) -> str:
    """A sentence on the classes that are hardly ever recognised; "" if there are none."""
    weak = weak_classes(accuracy, recall)
    return f"hardly ever right: {listed(recall, weak)}; {remedy}" if weak else ""


def rows(balanced_accuracy: float | None, recall: Mapping[str, float]) -> list[tuple[str, object]]:
    """Of a summary; none without validation."""
    if balanced_accuracy is None:
        return []
    worst_first = sorted(recall, key=lambda name: recall[name])
    return [("balanced accuracy", percent(balanced_accuracy)), ("recall", listed(recall, worst_first))]

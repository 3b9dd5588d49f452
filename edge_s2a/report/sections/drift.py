"""Shows how far recent images are from those that were learned in one pass."""

from edge_s2a.report.elements import card, definitions, paragraph, titled
from edge_s2a.report.words import human_time
from edge_s2a.run.schema import RecentDrift


def section(recent: RecentDrift | None) -> str:
    if recent is None:
        return titled("Recent images", paragraph("None has been predicted since this was learned."))
    said = "are unlike those that were learned" if recent.drifted else "are like those that were learned"
    values = [
        ("predicted", human_time(recent.time)),
        ("images", str(recent.images)),
        ("statistic", f"{recent.statistic:.3g}"),
        ("threshold, which 1 % of like images exceed", f"{recent.threshold:.3g}"),
    ]
    return titled("Recent images", card(f"The last images {said}", definitions(values)))

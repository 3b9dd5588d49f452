"""Shows the classes that were learned in one pass, and which of them are taken for which."""

from edge_s2a.artifact.learned import MOST_CONFUSED
from edge_s2a.report.elements import card, cards, paragraph, table, titled
from edge_s2a.report.learned_record import LearnedRecord
from edge_s2a.report.sections.confusions import recall_of, worst_pairs
from edge_s2a.report.words import NOTHING, percent


def section(record: LearnedRecord, figures: dict[str, str]) -> str:
    parts = (figures.get("confusion"), class_table(record), worst_pairs(record.confusion))
    return titled("Classes", paragraph(said(record)) + cards(part for part in parts if part))


def said(record: LearnedRecord) -> str:
    confusion = record.confusion
    if confusion.images:
        right = confusion.images - confusion.wrong
        return f"Left out of the classifier, one at a time: {right} of {confusion.images} images right."
    if len(record.classes) > MOST_CONFUSED:
        return f"Which class is taken for which is recorded for up to {MOST_CONFUSED} classes."
    return "No image could be left out of the classifier: that takes two images each of two classes."


def class_table(record: LearnedRecord) -> str:
    accuracies = recall_of(record.confusion)
    rows = [
        (name, percent(accuracies[name]) if name in accuracies else NOTHING, str(images))
        for name, images in record.summary.classes.items()
    ]
    return card("What was learned", table(("class", "left-out accuracy", "images"), rows))

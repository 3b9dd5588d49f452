"""Predicts the classes of image files."""

from pathlib import Path
from typing import Any

from edge_s2a.device.classifier import Classifier
from edge_s2a.device.closed_form.drift import Recent
from edge_s2a.device.closed_form.unknown import are_unknown
from edge_s2a.device.data.dataset import dataset_of
from edge_s2a.device.data.paths import printable
from edge_s2a.device.evaluate import likeliest
from edge_s2a.errors import UserError


def predict(classifier: Classifier, images: list[Path], top: int, unknown: float | None) -> dict[str, Any]:
    """Returns {"results": [{"image", "predictions": [{"label", "probability"}, ...]}, ...], "unreadable": {image:
    reason}, "drift"} with the `top` likeliest classes of each image. "drift" tells how far the images are from those
    that were learned, None with an adapter.

    unknown: the rate at which images of known classes may be refused by mistake; each result then has "unknown". Raises
    UserError where that is given with an adapter.
    """
    if unknown is not None and classifier.head is None:
        raise UserError("--unknown needs a knowledge file, which knows what was learned; give one as --adapter")
    dataset = dataset_of(Path(), classifier.classes, images)
    results: list[dict[str, Any]] = []
    recent = None if classifier.head is None else Recent(classifier.head)
    for indices, (logits, features) in classifier.answers(dataset):
        for index, row in zip(indices, logits, strict=True):
            found = [prediction._asdict() for prediction in likeliest(classifier.classes, row, top)]
            results.append({"image": printable(images[index]), "predictions": found})
        if classifier.head is not None and recent is not None and features is not None:
            recent.add(features)
            if unknown is not None:
                refused = are_unknown(classifier.head, features, unknown).tolist()
                for result, is_refused in zip(results[-len(refused) :], refused, strict=True):
                    result["unknown"] = is_refused
    drift = recent.drift() if recent is not None and recent.images else None
    return {
        "results": results,
        "unreadable": dataset.skipped_names(),
        "drift": None if drift is None else drift._asdict(),
    }

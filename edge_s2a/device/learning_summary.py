"""Sums up what was learned in one pass: the record in a knowledge file (docs/RUN.md)."""

from edge_s2a.artifact.learned import Head, State
from edge_s2a.run.schema import LearningSummary


def summary_of(model: str, state: State, head: Head) -> LearningSummary:
    """Returns what was learned, and how good the classifier is. How it came about is missing: that is for who learned
    to say.

    model: name of the backbone. head: the classifier of `state`.
    """
    folded = len(state.folded.labels) if state.folded else 0
    measured = head.measured
    return LearningSummary(
        model=model,
        started=None,
        images=head.images,
        new_images=None,
        known_images=None,
        skipped_images=None,
        kept_images=head.images - folded,
        folded_images=folded,
        classes=dict(zip(state.classes, state.counts.tolist(), strict=True)),
        features=state.layout.width,
        used_features=state.layout.width - state.layout.first_column(head.groups),
        codes=state.layout.format,
        storage_bytes=None,
        class_weights=None,
        form=head.kind,
        ridge=head.ridge,
        temperature=head.temperature,
        left_out_accuracy=measured.accuracy if measured else None,
        left_out_loss=measured.log_loss if measured else None,
        calibration_error=measured.calibration_error if measured else None,
        confusion=(measured.confusion or []) if measured else [],
        val_accuracy=None,
        val_balanced_accuracy=None,
        val_loss=None,
        seconds=None,
        predicted_peak_bytes=None,
        peak_rss_bytes=None,
        budget_bytes=None,
        micro_batch_size=None,
        parts={},
    )

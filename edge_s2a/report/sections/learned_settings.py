"""Shows how something was learned in one pass: settings, classifier, and memory plan."""

from edge_s2a.report.sections.settings import configuration
from edge_s2a.run.schema import LearningSummary


def section(summary: LearningSummary) -> str:
    parts = {f"{name}_bytes": size for name, size in summary.parts.items()}
    return configuration(
        {
            "Settings": {
                "storage_bytes": summary.storage_bytes,
                "codes": summary.codes,
                "class_weights": summary.class_weights,
            },
            "Classifier": {
                "form": summary.form,
                "features": summary.features,
                "used_features": summary.used_features,
                "lambda": summary.ridge,
                "temperature": summary.temperature,
            },
            "Images": {
                "learned": summary.images,
                "features_kept": summary.kept_images,
                "folded_into_sums": summary.folded_images,
                "new": summary.new_images,
                "known_before": summary.known_images,
                "skipped": summary.skipped_images,
            },
            "Memory plan": {
                "budget_bytes": summary.budget_bytes,
                "predicted_peak_bytes": summary.predicted_peak_bytes,
                "micro_batch_size": summary.micro_batch_size,
                **parts,
            },
        }
    )

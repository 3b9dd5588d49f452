"""`edge-s2a eval`."""

import sys
from pathlib import Path

from edge_s2a.cli.command import Command
from edge_s2a.cli.output import Output
from edge_s2a.cli.peak import exit_code
from edge_s2a.errors import UserError
from edge_s2a.options import EvalOptions
from edge_s2a.run.recall import rows as recall_rows
from edge_s2a.run.recall import warning

REMEDY = "train or learn with --class-weights balanced, or add images of these classes"


def run(options: EvalOptions, output: Output) -> int:
    from edge_s2a.artifact.archive import Artifact
    from edge_s2a.device.classifier import classes_of, load_classifier
    from edge_s2a.device.data.dataset import open_dataset, unused_files
    from edge_s2a.device.evaluate import evaluate
    from edge_s2a.device.load import start_engine
    from edge_s2a.device.memory.available import parse_budget
    from edge_s2a.device.memory.index import index_memory
    from edge_s2a.system.memory import make_allocator_predictable, peak_resident_bytes

    budget_bytes = parse_budget(options.memory_budget)
    settings = start_engine(options.provider, options.threads)
    make_allocator_predictable()
    classes = classes_of(Path(options.artifact), Path(options.adapter))
    dataset = open_dataset(Path(options.data), "val", classes, len(classes))
    index = index_memory(Artifact(Path(options.artifact)).manifest, dataset)
    classifier = load_classifier(Path(options.artifact), Path(options.adapter), budget_bytes, settings, index)
    if (unused := unused_files(dataset)) and not output.quiet:
        print(unused, file=sys.stderr)
    result = evaluate(classifier.logits, classifier.runtime.collator, dataset)
    if not result["count"]:
        raise UserError(f"no image of {dataset.where} could be read; check the data")
    result["skipped"] = dataset.skipped_names()
    rows = [
        ("accuracy", f"{100 * result['accuracy']:.2f} %"),
        *recall_rows(result["balanced_accuracy"], result["recall"]),
        ("loss", "not finite" if result["loss"] is None else f"{result['loss']:.4f}"),
        ("images", result["count"]),
        ("skipped images", len(dataset.skipped)),
    ]
    output.show(result, rows)
    if (told := warning(result["accuracy"], result["recall"], REMEDY)) and not output.quiet:
        print(told, file=sys.stderr)
    return exit_code("eval", peak_resident_bytes(), budget_bytes)


COMMAND = Command("eval", "measure the accuracy of an adapter or knowledge file on labelled images", EvalOptions, run)

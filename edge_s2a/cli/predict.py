"""`edge-s2a predict`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_s2a.cli.command import Command
from edge_s2a.cli.output import Output, as_json, say
from edge_s2a.cli.peak import exit_code
from edge_s2a.errors import UserError
from edge_s2a.option import paths
from edge_s2a.options import PredictOptions


def run(options: PredictOptions, output: Output) -> int:
    from edge_s2a.device.classifier import load_classifier
    from edge_s2a.device.load import start_engine
    from edge_s2a.device.memory.available import parse_budget
    from edge_s2a.device.predict import predict
    from edge_s2a.run.schema import RecentDrift
    from edge_s2a.run.times import now_utc
    from edge_s2a.run.writer import write_recent
    from edge_s2a.system.memory import peak_resident_bytes

    budget_bytes = parse_budget(options.memory_budget)
    settings = start_engine(options.provider, options.threads)
    classifier = load_classifier(Path(options.artifact), Path(options.adapter), budget_bytes, settings)
    found = predict(classifier, paths(options.images), options.top, options.unknown)
    if found["drift"]:
        write_recent(Path(options.adapter), RecentDrift(time=now_utc(), **found["drift"]))
    if output.json:
        print(as_json(found))
    elif not output.quiet:
        for result in found["results"]:
            for line in lines(result):
                say(line)
        if found["drift"] and found["drift"]["drifted"]:
            print(f"the images are unlike those that were learned: {found['drift']['statistic']:.2f}, where "
                  f"{found['drift']['threshold']:.2f} is usual at most")  # fmt: skip
    if unreadable := found["unreadable"]:
        listed = "; ".join(f"{name}: {reason}" for name, reason in unreadable.items())
        raise UserError(f"{len(unreadable)} of {len(options.images)} images were not used: {listed}")
    return exit_code("predict", peak_resident_bytes(), budget_bytes)


def lines(result: Mapping[str, Any]) -> list[str]:
    """image, class and probability, separated by tabs, for each of the likeliest classes."""
    if result.get("unknown"):
        return [f"{result['image']}\tnone of these\t"]
    return [f"{result['image']}\t{item['label']}\t{item['probability']:.4f}" for item in result["predictions"]]


COMMAND = Command("predict", "classify images", PredictOptions, run)

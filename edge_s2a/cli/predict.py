"""`edge-s2a predict`."""

import json
from pathlib import Path

from edge_s2a.cli.command import Command
from edge_s2a.cli.output import Output
from edge_s2a.errors import UserError
from edge_s2a.option import paths
from edge_s2a.options import PredictOptions


def run(options: PredictOptions, output: Output) -> int:
    from edge_s2a.device.evaluate import predict
    from edge_s2a.device.load import load_adapted, start_engine
    from edge_s2a.device.memory.available import parse_budget

    budget_bytes = parse_budget(options.memory_budget)
    settings = start_engine(options.provider, options.threads)
    runtime, classes = load_adapted(Path(options.artifact), Path(options.adapter), budget_bytes, settings)
    results, unreadable = predict(runtime, paths(options.images), classes, options.top)
    if output.json:
        print(json.dumps({"results": results, "unreadable": unreadable}, ensure_ascii=False))
    elif not output.quiet:
        for result in results:
            for item in result["predictions"]:
                print(f"{result['image']}\t{item['label']}\t{item['probability']:.4f}")
    if unreadable:
        listed = "; ".join(f"{name}: {reason}" for name, reason in unreadable.items())
        raise UserError(f"{len(unreadable)} of {len(options.images)} images were not used: {listed}")
    return 0


COMMAND = Command("predict", "classify images", PredictOptions, run)

"""The command line, `edge-s2a`: one verb a function. Exit codes: 0 done, 2 bad input, 3 budget too small,
4 self-check failed, 130 interrupted."""

import argparse
import json
import math
import os
import sys
from pathlib import Path

from edge_s2a.cli.parser import HelpWithDefaults, Parser, ShowVersions, refuse_misspelt
from edge_s2a.errors import CheckError, MemoryPressure, UserError

INTERRUPTED = 130
SHELLS = ("bash", "zsh", "tcsh")


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = build_parser()
    refuse_misspelt(parser, arguments)
    options = parser.parse_args(arguments)
    try:
        require_signature(options)
        return options.run(options)
    except UserError as error:
        # One line, also where it quotes a library's message of many.
        print(f"edge-s2a {options.verb}: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        from edge_s2a.device.checkpoint import has_checkpoint

        can_resume = options.verb == "train" and has_checkpoint(options.output / "checkpoint")
        hint = "; a checkpoint was written, --resume continues" if can_resume else ""
        print(f"edge-s2a {options.verb}: interrupted{hint}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return 0


def build_parser() -> Parser:
    parser = Parser(prog="edge-s2a", description=__doc__.split(":")[0] + ".")
    parser.add_argument(
        "--version", action=ShowVersions, nargs=0, help="of this program, of its files, and of the engine"
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    for add in (
        add_pack, add_inspect, add_plan, add_check, add_train, add_eval, add_predict, add_watch, add_report,
        add_export, add_import_adapter, add_quickstart, add_completion,
    ):  # fmt: skip
        add(verbs)
    return parser


def new_verb(verbs, name: str, run, help_text: str) -> Parser:
    parser = verbs.add_parser(name, help=help_text, description=help_text, formatter_class=HelpWithDefaults)
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors, and what --json prints")
    return parser


def show(options: argparse.Namespace, result: dict, rows: list[tuple[str, object]]) -> None:
    """Prints the result: one JSON object with --json, otherwise `rows` as a table."""
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
        return
    if options.quiet:
        return
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def positive(kind: type):
    def parse(text: str):
        value = kind(text)
        if not value > 0 or value == float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not a positive number")
        return value

    return parse


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is negative or infinite")
    return value


# -- host verbs ----------------------------------------------------------------------------------------


def require_host() -> None:
    try:
        import onnx  # noqa: F401
        import timm  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"this verb runs on a workstation and needs {error.name}; install it with: pip install 'edge-s2a[host]'"
        ) from error


def add_pack(verbs) -> None:
    parser = new_verb(verbs, "pack", pack_model, "pack a timm model into a .s2a training artifact (workstation)")
    parser.add_argument("model", metavar="MODEL", help="name of a timm model")
    parser.add_argument("--output", type=Path, required=True, metavar="F.s2a", help="the artifact to write")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--weights", type=Path, help="safetensors file, or torch file of tensors")
    source.add_argument("--pretrained", action="store_true", help="timm's pretrained weights (downloads)")
    parser.add_argument("--model-kwargs", nargs="*", default=[], metavar="KEY=VALUE", help="passed to timm")
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument("--num-classes", type=positive(int), help="classes of the new head")
    classes.add_argument("--labels", type=Path, help="text file with one class name a line")
    parser.add_argument("--image-size", type=positive(int), help="side of the input, if not the model's own")
    parser.add_argument(
        "--adapter", default="bias", metavar="KIND[+KIND...]",
        help="what to train beside the head: bias, prompt, side, lowrank, s2a for bias+prompt+side; or head for "
        "nothing else. prompt, side and lowrank take options, for example lowrank:rank=4",
    )  # fmt: skip
    parser.add_argument(
        "--saved-bits", default="4", choices=["2", "4", "8", "32", "auto"],
        help="of saved tensors; auto: 2, 4 or 8 each, by the gradient error, 4 in the mean",
    )  # fmt: skip
    parser.add_argument(
        "--levels", default="best", choices=["uniform", "fitted", "best"],
        help="of the codes of derivatives; best: whichever errs less on the calibration images",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", type=Path, metavar="FOLDER", help="images to measure activations on; default: synthetic ones"
    )
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}", type=float, nargs=3, metavar=("R", "G", "B"), help=f"{name} of the input, if not timm's"
        )
    parser.add_argument(
        "--weight-format", default="int8", choices=["fp32", "fp16", "int8", "int4"], help="of frozen weights"
    )
    parser.add_argument(
        "--compute", default="fp32", choices=["fp32", "int8", "auto"],
        help="of frozen linear layers, forward and backward; auto: int8 where it errs little on calibration images",
    )  # fmt: skip
    parser.add_argument("--seed", type=whole, default=0, help="of the new head")
    parser.add_argument("--sign", type=Path, metavar="KEY", help="sign the artifact: PEM file, Ed25519 private key")


def pack_model(options) -> int:
    require_host()
    from edge_s2a.host.api import pack
    from edge_s2a.host.sources.timm import parse_model_kwargs

    labels = read_labels(options.labels) if options.labels else None
    if not options.weights and not options.pretrained and not options.quiet:
        print("warning: random weights; give --weights FILE or --pretrained", file=sys.stderr)
    pack(
        options.model,
        options.output,
        num_classes=options.num_classes,
        labels=labels,
        weights=options.weights,
        pretrained=options.pretrained,
        model_kwargs=parse_model_kwargs(options.model_kwargs),
        image_size=options.image_size,
        mean=options.mean,
        std=options.std,
        adapter=options.adapter,
        saved_bits=options.saved_bits,
        levels=options.levels,
        calibration=options.calibration,
        weight_format=options.weight_format,
        compute=options.compute,
        seed=options.seed,
        sign=options.sign,
    )
    return describe(options, options.output)


def read_labels(path: Path) -> list[str]:
    from edge_s2a.artifact.files import read_bytes

    try:
        text = read_bytes(path, "labels").decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}; write one class name a line") from error
    labels = [line.strip() for line in text.splitlines() if line.strip()]
    if len(labels) != len(set(labels)) or not labels:
        raise UserError(f"{path} must name each class once, one a line; it has {len(labels)} lines")
    return labels


# -- device verbs --------------------------------------------------------------------------------------


def add_inspect(verbs) -> None:
    parser = new_verb(verbs, "inspect", inspect, "show what an artifact holds")
    add_artifact(parser)


def inspect(options) -> int:
    return describe(options, options.artifact)


def describe(options, path: Path) -> int:
    from edge_s2a.artifact.archive import Artifact
    from edge_s2a.device.data.feature_cache import code_bytes

    artifact = Artifact(path)
    manifest = artifact.manifest
    result = {
        "model": manifest.model,
        "adapter": "+".join(manifest.adapter),
        "saved_bits": manifest.saved_bits,
        "mean_saved_bits": manifest.mean_saved_bits,
        "levels": manifest.levels,
        "weight_format": manifest.weight_format,
        "int8_layers": manifest.int8_layers,
        "num_classes": manifest.num_classes,
        "labels": manifest.labels,
        "image_size": list(manifest.preprocessing.image_size),
        "trainable_parameters": manifest.trainable_parameters,
        "total_parameters": manifest.total_parameters,
        "saved_bytes_per_image": manifest.saved_bytes_per_image,
        "feature_bytes_per_image": code_bytes(manifest.features),
        "file_bytes": artifact.file_bytes,
        "signed": artifact.signature is not None,
        "members": {name: entry["bytes"] for name, entry in manifest.members.items()},
        "format_version": manifest.format_version,
    }
    trainable, total = manifest.trainable_parameters, manifest.total_parameters
    height, width = manifest.preprocessing.image_size
    show(
        options,
        result,
        [
            ("file", f"{path}, {artifact.file_bytes} bytes, format version {manifest.format_version}"),
            ("model", " ".join([manifest.model, *(f"{k}={v}" for k, v in manifest.model_kwargs.items())])),
            ("input", f"{height}x{width} RGB"),
            (
                "classes",
                f"{manifest.num_classes}" + (f": {', '.join(manifest.labels)}" if manifest.labels else ""),
            ),
            ("signed", "yes; --require-signature verifies it" if artifact.signature else "no"),
            ("adapter", " and ".join(dict.fromkeys(["+".join(manifest.adapter), "head"]))),  # head alone: once
            ("trainable", f"{trainable} of {total} parameters ({100 * trainable / total:.2f} %)"),
            (
                "frozen weights",
                f"{manifest.weight_format}, {artifact.member_bytes('weights.safetensors')} bytes",
            ),
            ("computed in int8", f"{len(manifest.int8_layers)} linear layers"),
            (
                "saved tensors",
                f"{manifest.saved_bits} bits (mean {manifest.mean_saved_bits:.2f}), {manifest.levels} levels, "
                f"{manifest.saved_bytes_per_image} bytes an image",
            ),
            ("kept features", f"{code_bytes(manifest.features)} bytes an image" if manifest.features else "none"),
        ],
    )
    return 0


def add_run_options(parser) -> None:
    add_memory_budget(parser, required=True)
    parser.add_argument("--batch-size", type=positive(int), default=16, help="images an optimizer step")
    parser.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw", help="sgd: with momentum 0.9")
    add_engine(parser)


def add_memory_budget(parser, **options) -> None:
    parser.add_argument(
        "--memory-budget", metavar="SIZE", **options,
        help="bound of the whole process, e.g. 192MiB; auto: what machine and cgroup leave, less a tenth, or 32MiB",
    )  # fmt: skip


def add_artifact(parser) -> None:
    parser.add_argument("artifact", type=Path, metavar="F.s2a", help="artifact that pack wrote")
    parser.add_argument(
        "--require-signature", type=Path, metavar="PUBKEY",
        help="refuse an artifact that is not signed by the owner of this key: PEM file, Ed25519 public key",
    )  # fmt: skip


def require_signature(options) -> None:
    """Before anything of the artifact is used. Digests of its members are verified when these are read."""
    if getattr(options, "require_signature", None):
        from edge_s2a.artifact.archive import Artifact

        Artifact(options.artifact).require_signature(options.require_signature)


def add_engine(parser) -> None:
    parser.add_argument("--threads", type=positive(int), help="of the engine; default: physical cores")
    parser.add_argument(
        "--provider", choices=["cpu", "cuda", "tensorrt"], default="cpu",
        help="what computes; the budget does not count memory of a GPU",
    )  # fmt: skip


def start_engine(options):
    from edge_s2a.device.engine import load

    return load.start_engine(options.provider, options.threads)


def add_plan(verbs) -> None:
    parser = new_verb(verbs, "plan", plan, "show what would run under a memory budget")
    add_artifact(parser)
    add_run_options(parser)


def plan(options) -> int:
    import edge_s2a.device.training_run  # noqa: F401 - the plan measures all that training imports
    from edge_s2a.device.engine.load import plan_memory
    from edge_s2a.device.memory.available import parse_budget
    from edge_s2a.sizes import format_size

    memory = plan_memory(
        options.artifact, parse_budget(options.memory_budget), options.batch_size, start_engine(options),
        options.optimizer,
    )  # fmt: skip
    result = {
        "feasible": memory.feasible,
        "batch_size": memory.batch_size,
        "micro_batch_size": memory.micro_batch_size,
        "predicted_peak_bytes": memory.predicted_peak_bytes,
        "minimum_budget_bytes": memory.minimum_budget_bytes,
        "budget_bytes": memory.budget_bytes,
        "streams_weights": memory.streams_weights,
        "parts": memory.parts,
    }
    micro_batch = f"{memory.micro_batch_size} of {memory.batch_size} images"
    if not memory.feasible:
        micro_batch = "none fits; the parts are those of one image"
    show(
        options,
        result,
        [
            ("memory budget", f"{format_size(memory.budget_bytes):>12}"),
            ("smallest budget", f"{format_size(memory.minimum_budget_bytes):>12}"),
            ("micro-batch", micro_batch),
            ("frozen weights", "read when needed" if memory.streams_weights else "stay in memory"),
            ("predicted peak", f"{format_size(memory.predicted_peak_bytes):>12}"),
            *((f"  {name}", f"{format_size(size):>12}") for name, size in memory.parts.items()),
        ],
    )
    memory.require()
    return 0


def add_check(verbs) -> None:
    parser = new_verb(verbs, "check", check, "verify an artifact and replay its golden step on this machine")
    add_artifact(parser)
    add_engine(parser)


def check(options) -> int:
    from edge_s2a.device.engine import selfcheck
    from edge_s2a.device.engine.load import load_for_check

    result = selfcheck.check(*load_for_check(options.artifact, start_engine(options)))
    show(
        options,
        result,
        [
            ("checksums and plan", "ok"),
            *((f"golden {name}", f"relative error {error:.1e}") for name, error in result["errors"].items()),
        ],
    )
    if not result["ok"]:
        deviating = ", ".join(
            f"{name} by {error:.1e} (tolerance {result['tolerances'][name]:.0e})"
            for name, error in result["errors"].items()
            if error > result["tolerances"][name]
        )
        raise CheckError(
            f"the golden step of {options.artifact} deviates in {deviating}; "
            "this engine computes something else, do not train with it"
        )
    return 0


def add_train(verbs) -> None:
    parser = new_verb(verbs, "train", train, "fine-tune the adapter inside a memory budget")
    add_artifact(parser)
    parser.add_argument("--data", type=Path, required=True, help="ImageFolder, with or without train/val; or .npz")
    parser.add_argument("--val-data", type=Path, help="validation images, if not DIR/val of --data")
    parser.add_argument("--output", type=Path, required=True, metavar="RUN", help="folder for the results")
    add_run_options(parser)
    parser.add_argument("--epochs", type=positive(int), default=15, help="passes over the images")
    parser.add_argument(
        "--lr", type=positive(float), default=2e-3, help="peak learning rate; with adamw the head takes at most 5e-4"
    )
    parser.add_argument("--weight-decay", type=not_negative, default=0.01, help="of matrices")
    parser.add_argument(
        "--warmup-epochs", type=not_negative, default=1.0, help="in which the learning rate rises to its peak"
    )
    parser.add_argument(
        "--label-smoothing", type=share, default=0.1, help="share of the target that all classes have alike"
    )
    parser.add_argument(
        "--clip-norm", type=positive(float), metavar="NORM", help="scale larger gradients to this norm; default: never"
    )
    parser.add_argument("--augment", choices=["none", "flip", "crop"], default="none", help="crop includes flip")
    parser.add_argument(
        "--feature-cache",
        metavar="SIZE",
        help="of RUN/features.cache, for artifacts with kept features (inspect): later epochs leave the backbone out; "
        "default: 512MiB; 0: none",
    )
    parser.add_argument("--seed", type=whole, default=0, help="of image order and augmentation")
    parser.add_argument("--resume", action="store_true", help="continue from RUN/checkpoint")
    parser.add_argument(
        "--resume-or-start", action="store_true", help="the same if there is one, else a new run: for services"
    )
    parser.add_argument(
        "--checkpoint-minutes",
        type=not_negative,
        default=10.0,
        help="at most so long between checkpoints; 0: each step",
    )
    parser.add_argument(
        "--max-temperature", type=positive(float), default=80.0, metavar="CELSIUS", help="rest between steps above this"
    )
    parser.add_argument(
        "--watchdog-minutes", type=positive(float), default=60.0, help="end the process if one step takes longer"
    )


def train(options) -> int:
    from edge_s2a.device import api
    from edge_s2a.device.checkpoint import has_checkpoint
    from edge_s2a.sizes import format_size

    try:
        summary = api.train(
            options.artifact,
            options.data,
            options.output,
            memory_budget=options.memory_budget,
            val_data=options.val_data,
            epochs=options.epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            optimizer=options.optimizer,
            weight_decay=options.weight_decay,
            warmup_epochs=options.warmup_epochs,
            label_smoothing=options.label_smoothing,
            clip_norm=options.clip_norm or math.inf,
            augment=options.augment,
            feature_cache=options.feature_cache,
            seed=options.seed,
            resume=options.resume or (options.resume_or_start and has_checkpoint(options.output / "checkpoint")),
            checkpoint_minutes=options.checkpoint_minutes,
            max_temperature=options.max_temperature,
            watchdog_minutes=options.watchdog_minutes,
            quiet=options.quiet,
            threads=options.threads,
            provider=options.provider,
        )
    except MemoryPressure as pressure:
        print(f"edge-s2a train: {pressure}", file=sys.stderr, flush=True)
        # A fresh process gives back all that this one has; of an option given twice the last counts.
        again = [*sys.orig_argv[1:], "--resume", "--memory-budget", str(pressure.budget_bytes)]
        os.execv(sys.executable, [sys.executable, *again])
    accuracy, best = summary["val_accuracy"], summary["best_accuracy"]
    rows = [
        ("steps", f"{summary['steps']} in {summary['seconds']:.1f} s"),
        ("train loss", "not finite" if summary["train_loss"] is None else f"{summary['train_loss']:.4f}"),
        ("val accuracy", "no validation data" if accuracy is None else f"{100 * accuracy:.1f} %"),
        ("best accuracy", "that of the start" if best is None else f"{100 * best:.1f} %"),
        ("trained", f"{summary['trainable_parameters']} of {summary['total_parameters']} parameters"),
        ("predicted peak", format_size(summary["predicted_peak_bytes"])),
        ("measured peak", format_size(summary["peak_rss_bytes"])),
        ("memory budget", format_size(summary["budget_bytes"])),
        ("skipped images", summary["skipped_images"]),
        ("results", summary["output"]),
    ]
    show(options, summary, rows)
    return 0


def add_eval(verbs) -> None:
    parser = new_verb(verbs, "eval", evaluate, "accuracy of an adapter on labelled images")
    add_artifact(parser)
    parser.add_argument("--adapter", type=Path, required=True, help="RUN/best.safetensors")
    parser.add_argument("--data", type=Path, required=True, help="ImageFolder, with or without train/val; or .npz")
    add_memory_budget(parser, default="auto")
    add_engine(parser)


def evaluate(options) -> int:
    from edge_s2a.device import evaluate as evaluation
    from edge_s2a.device.data.dataset import open_dataset
    from edge_s2a.device.engine.load import load_adapted
    from edge_s2a.device.memory.available import parse_budget

    runtime, classes = load_adapted(
        options.artifact, options.adapter, parse_budget(options.memory_budget), start_engine(options)
    )
    dataset = open_dataset(options.data, "val", classes, runtime.artifact.manifest.num_classes)
    result = evaluation.evaluate(runtime, dataset)
    if not result["count"]:
        raise UserError(f"no image of {dataset.where} could be read; check the data")
    result["skipped"] = dataset.skipped_names()
    rows = [
        ("accuracy", f"{100 * result['accuracy']:.2f} %"),
        ("loss", "not finite" if result["loss"] is None else f"{result['loss']:.4f}"),
        ("images", result["count"]),
        ("skipped images", len(dataset.skipped)),
    ]
    show(options, result, rows)
    return 0


def add_predict(verbs) -> None:
    parser = new_verb(verbs, "predict", predict, "classes of single images")
    add_artifact(parser)
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="files")
    parser.add_argument("--adapter", type=Path, required=True, help="RUN/best.safetensors")
    parser.add_argument("--top", type=positive(int), default=1, help="classes an image")
    add_memory_budget(parser, default="auto")
    add_engine(parser)


def predict(options) -> int:
    from edge_s2a.device import evaluate as evaluation
    from edge_s2a.device.engine.load import load_adapted
    from edge_s2a.device.memory.available import parse_budget

    runtime, classes = load_adapted(
        options.artifact, options.adapter, parse_budget(options.memory_budget), start_engine(options)
    )
    results, unreadable = evaluation.predict(runtime, options.images, classes, options.top)
    if options.json:
        print(json.dumps({"results": results, "unreadable": unreadable}, ensure_ascii=False))
    elif not options.quiet:
        for result in results:
            for item in result["predictions"]:
                print(f"{result['image']}\t{item['label']}\t{item['probability']:.4f}")
    if unreadable:
        listed = "; ".join(f"{name}: {reason}" for name, reason in unreadable.items())
        raise UserError(f"{len(unreadable)} of {len(options.images)} images were not used: {listed}")
    return 0


def add_watch(verbs) -> None:
    parser = new_verb(verbs, "watch", watch, "show a run while it goes; q or Ctrl-C ends the showing")
    add_run(parser)
    parser.add_argument("--once", action="store_true", help="one frame, as where standard output is no terminal")


def add_run(parser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="what was --output of edge-s2a train")


def watch(options) -> int:
    from edge_s2a.run import watch as watching

    if options.json:
        print(json.dumps(watching.snapshot(options.run_folder)))
    elif not options.quiet:
        watching.watch(options.run_folder, options.once)
    return 0


def add_report(verbs) -> None:
    parser = new_verb(verbs, "report", report, "write a page about a run, and pictures of its figures")
    add_run(parser)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: RUN/report")
    parser.add_argument("--tensorboard", type=Path, metavar="FOLDER", help="write TensorBoard's events there, instead")


def report(options) -> int:
    if options.tensorboard:
        return write_tensorboard(options)
    require_matplotlib()
    from edge_s2a.report.write import write_report

    run = options.run_folder
    result = write_report(run, options.output or run / "report")
    show(options, result, [("page", result["page"]), *(("figure", path) for path in result["figures"])])
    return 0


def write_tensorboard(options) -> int:
    try:
        from edge_s2a.report.tensorboard import write_events
    except ImportError as error:
        raise UserError("this needs tensorboard; install it with: pip install 'edge-s2a[tensorboard]'") from error
    from edge_s2a.artifact.files import writing
    from edge_s2a.report.record import read_record

    record = read_record(options.run_folder)
    with writing(options.tensorboard):
        write_events(record, options.tensorboard)
    show(options, {"events": str(options.tensorboard)}, [("events", options.tensorboard)])
    return 0


def require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("a report needs matplotlib; install it with: pip install 'edge-s2a[report]'") from error


def add_export(verbs) -> None:
    parser = new_verb(verbs, "export", export, "write the tuned model in a format that others read (workstation)")
    add_artifact(parser)
    parser.add_argument("--adapter", type=Path, required=True, help="RUN/best.safetensors")
    parser.add_argument(
        "--format", default="onnx", choices=["onnx", "timm", "torch", "peft", "ort-training"],
        help="onnx: inference, one file; timm: state dict of the timm model; torch: of the adapted module; peft: "
        "folder of PEFT; ort-training: folder for onnxruntime-training's API",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="PATH", help="file, or folder")
    parser.add_argument("--int8", action="store_true", help="of onnx: frozen weights as the artifact holds them")


def export(options) -> int:
    require_host()
    from edge_s2a.exporting import export

    result = export(options.artifact, options.adapter, options.output, options.format, options.int8)
    error = result["relative_error"]
    agreement = "not checked: only PEFT runs it" if error is None else f"within {error:.1e} of the runtime's logits"
    show(options, result, [("format", result["format"]), ("written", result["output"]), ("outputs", agreement)])
    return 0


def add_import_adapter(verbs) -> None:
    parser = new_verb(
        verbs, "import-adapter", import_adapter, "make an adapter file of what torch trained (workstation)"
    )
    add_artifact(parser)
    parser.add_argument(
        "--torch", type=Path, required=True, metavar="STATE",
        help="state dict, safetensors or torch file, of the module that edge_s2a.load_module makes of the artifact",
    )  # fmt: skip
    parser.add_argument("--labels", type=Path, help="text file with one class name a line, if the artifact has none")
    parser.add_argument("--output", type=Path, required=True, metavar="ADAPTER", help="adapter file to write")


def import_adapter(options) -> int:
    require_host()
    from edge_s2a.host.export.module import import_adapter

    labels = read_labels(options.labels) if options.labels else None
    import_adapter(options.artifact, options.torch, options.output, labels)
    show(options, {"output": str(options.output)}, [("written", options.output)])
    return 0


def add_quickstart(verbs) -> None:
    parser = new_verb(verbs, "quickstart", quickstart, "pack the embedded model and fine-tune it on handwriting")
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart"), help="folder for everything")
    parser.add_argument("--memory-budget", default="128MiB", metavar="SIZE", help="bound of the training process")


def quickstart(options) -> int:
    require_host()
    from edge_s2a.quickstart import run_quickstart

    return run_quickstart(options.output, options.memory_budget, options.json, options.quiet)


def add_completion(verbs) -> None:
    parser = new_verb(verbs, "completion", completion, "print the script that completes words of this command")
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to read it")


def completion(options) -> int:
    try:
        import shtab
    except ImportError as error:
        raise UserError("this needs shtab; install it with: pip install 'edge-s2a[completion]'") from error
    print(shtab.complete(build_parser(), options.shell))
    return 0


if __name__ == "__main__":
    sys.exit(main())

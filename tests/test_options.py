"""Options: defined once, converted and checked when they are given, from the command line or from Python."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

import edge_s2a
from edge_s2a import option as base
from edge_s2a.cli.options import read_lines
from edge_s2a.errors import UserError
from edge_s2a.option import described
from edge_s2a.options import ExportOptions, PackOptions, PredictOptions, TrainerOptions, TrainOptions
from tests.helpers.paths import PROJECT


def train_options(**changes) -> TrainOptions:
    return TrainOptions("model.s2a", "photos", "run", **{"memory_budget": "192MiB", **changes})


def pack_options(**changes) -> PackOptions:
    return PackOptions("vit_tiny_patch16_224", "x.s2a", **{"num_classes": 2, **changes})


def test_values_are_converted_to_what_the_fields_hold():
    options = train_options(lr=1, feature_cache="2MiB")
    assert (options.artifact, options.output) == (Path("model.s2a"), Path("run"))
    assert (options.memory_budget, options.feature_cache) == (192 << 20, 2 << 20)
    assert isinstance(options.lr, float)
    assert pack_options(saved_bits=8).saved_bits == "8"
    assert pack_options(mean=[0, 0.5, 1]).mean == (0.0, 0.5, 1.0)
    assert PredictOptions("x.s2a", ["a.png"], adapter="b").images == [Path("a.png")]


def test_a_budget_is_bytes_text_or_auto():
    assert train_options(memory_budget=1000).memory_budget == 1000
    assert train_options(memory_budget="auto").memory_budget == "auto"
    with pytest.raises(UserError, match="'lots' is not a size"):
        train_options(memory_budget="lots")
    with pytest.raises(UserError, match=r"1\.5 is not a size"):
        train_options(memory_budget=1.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs: 0 is not a positive number"),
        ({"lr": math.inf}, "lr: inf is not a positive number"),
        ({"lr": math.nan}, "lr: nan is not a positive number"),
        ({"clip_norm": -1}, "clip_norm: -1.0 is not a positive number"),
        ({"weight_decay": -0.1}, "weight_decay: -0.1 is negative or infinite"),
        ({"checkpoint_minutes": math.inf}, "checkpoint_minutes: inf is negative or infinite"),
        ({"seed": -1}, "seed: -1 is negative"),
        ({"label_smoothing": 1.0}, r"label_smoothing: 1.0 is not in \[0, 1\)"),
        ({"optimizer": "adam"}, "optimizer 'adam' is unknown; choose one of adamw, sgd"),
        ({"epochs": 1.5}, "epochs: 1.5 is not of type int"),
        ({"epochs": True}, "epochs: True is not of type int"),
        ({"lr": "fast"}, "lr: 'fast' is not of type float"),
        ({"resume": "yes"}, "resume: 'yes' is not of type bool"),
        ({"val_data": 5}, "val_data: 5 is not of type Path"),
    ],
)
def test_a_value_that_is_not_admitted_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        train_options(**changes)


def test_channels_are_three():
    with pytest.raises(UserError, match="three numbers"):
        pack_options(std=[1, 2])


def test_packing_needs_the_number_of_classes_or_their_names():
    assert pack_options().class_count == 2
    assert pack_options(num_classes=None, labels=["a", "b", "c"]).class_count == 3
    with pytest.raises(UserError, match="--num-classes N or --labels FILE"):
        pack_options(num_classes=None)


def test_automatic_bits_need_calibration_images():
    assert pack_options(saved_bits="auto", calibration="photos").saved_bits == "auto"
    with pytest.raises(UserError, match="--calibration"):
        pack_options(saved_bits="auto")


def test_a_misspelt_keyword_is_refused():
    with pytest.raises(TypeError, match="epoch"):
        edge_s2a.train("model.s2a", "photos", "run", memory_budget="192MiB", epoch=3)
    with pytest.raises(TypeError, match="memory_budget"):
        edge_s2a.train("model.s2a", "photos", "run")


def test_options_are_frozen():
    with pytest.raises(AttributeError):
        train_options().epochs = 3


def test_no_clipping_is_an_infinite_norm():
    assert train_options().clip_norm == math.inf


@pytest.mark.parametrize(("name", "cls"), [("train", TrainOptions), ("pack", PackOptions), ("export", ExportOptions)])
def test_the_library_takes_every_option_with_its_default_and_documents_it(name, cls):
    import inspect

    function = getattr(edge_s2a, name)
    assert inspect.signature(function).parameters == inspect.signature(cls).parameters
    for entry, about in described(cls):
        assert f"- `{entry.name}`: {about.help}" in function.__doc__


def test_a_constructor_takes_options_as_keywords():
    import inspect

    assert inspect.signature(edge_s2a.Trainer).parameters == inspect.signature(TrainerOptions).parameters
    with pytest.raises(UserError, match=r"lr: 0\.0 is not a positive number"):
        edge_s2a.Trainer("model.s2a", lr=0)


def test_the_record_of_a_run_has_every_option():
    options = train_options(max_temperature=70)
    record = base.record(options)
    expected = {about.record or entry.name for entry, about in described(TrainOptions)} - {"on_step"}
    assert record.keys() == expected
    assert record["max_temperature_c"] == 70
    assert record["memory_budget_bytes"] == 192 << 20


def test_what_decides_the_result_is_what_a_resumed_run_must_agree_in():
    assert base.result_options(train_options()).keys() == {
        "batch_size", "optimizer", "lr", "weight_decay", "label_smoothing", "clip_norm", "seed", "epochs",
        "warmup_epochs", "augment", "start", "val_split", "intensity",
        "metric", "class_weights", "balance",
    }  # fmt: skip


CALLS = """
from edge_s2a.option import accepting
from edge_s2a.options import ExportOptions, TrainOptions

@accepting(TrainOptions)
def train(options: TrainOptions) -> int:
    return options.epochs

@accepting(ExportOptions)
def export(options: ExportOptions) -> None: ...

train("a", "b", "c", memory_budget=1, epoch=3)
train("a", "b", "c", memory_budget=1, epochs="3")
train("a", "b", "c")
export("a", "b", "c", "onnx", True)
train("a", "b", "c", memory_budget="auto", clip_norm=1) + 1
"""


def test_a_type_checker_knows_the_keywords_of_functions_of_options(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(CALLS)
    words = ["--follow-imports", "silent", "--no-error-summary", program]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *words], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 3, done.stdout
    assert 'Unexpected keyword argument "epoch"' in errors[0]
    assert 'Argument "epochs"' in errors[1]
    assert 'Missing named argument "memory_budget"' in errors[2]


@pytest.mark.parametrize(
    "text", ["\ufeffcat\ndog\n", "cat\r\ndog\r\n", "cat\rdog", " cat \n\n\tdog", "cat\u2028dog"], ids=repr
)
def test_names_are_read_whatever_editor_wrote_them(text, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(text.encode())
    assert read_lines("labels", path) == ["cat", "dog"]


@pytest.mark.parametrize("words", [(0.5, 0.5), (0.5, 0.5, float("nan")), (0.5, float("inf"), 0.5)])
def test_means_that_are_no_numbers_are_refused(words):
    with pytest.raises(UserError, match="three"):
        PackOptions("vit", output="a.s2a", num_classes=2, mean=words)


def test_none_is_refused_where_a_value_is_needed():
    with pytest.raises(UserError, match="seed is None"):
        PackOptions("vit", output="a.s2a", num_classes=2, seed=None)
    assert PackOptions("vit", output="a.s2a", num_classes=2, weights=None).weights is None

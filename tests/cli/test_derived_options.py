"""The command line is derived from the classes of options: every option, its default, and what it admits."""

import argparse
import math
import re
from collections.abc import Sequence

import pytest

from edge_s2a.cli.main import COMMANDS, build_parser
from edge_s2a.cli.options import add_options, from_namespace
from edge_s2a.cli.parser import commands_of
from edge_s2a.errors import UserError
from edge_s2a.option import REQUIRED, Options, described, option, options
from edge_s2a.options import PackOptions, TrainOptions
from tests.helpers.commands import assert_refused, run_command

TRAIN = ["train", "model.s2a", "--data", "photos", "--output", "run", "--memory-budget", "192MiB"]
PACK = ["pack", "vit_tiny_patch16_224", "--output", "x.s2a"]


def parsed(cls, words):
    return from_namespace(cls, build_parser().parse_args([str(word) for word in words]))


def values(options):
    return {entry.name: getattr(options, entry.name) for entry, _ in described(type(options))}


def flag(entry):
    return "--" + entry.name.replace("_", "-")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_is_in_the_help_with_its_default(command):
    parser = commands_of(build_parser())[command.name]
    actions = {action.dest: action for action in parser._actions}
    text = " ".join(parser.format_help().split())
    for entry, about in described(command.options):
        if about.is_library_only:
            continue
        action = actions[entry.name]
        assert (flag(entry) if not about.is_argument else about.metavar or entry.name) in text
        assert action.required == (entry.default is REQUIRED)
        if entry.default not in (REQUIRED, math.inf):
            assert action.default == entry.default
        if about.choices:
            assert tuple(action.choices) == about.choices


def test_defaults_of_the_command_are_those_of_the_library():
    by_keyword = TrainOptions("model.s2a", "photos", "run", memory_budget="192MiB")
    assert values(parsed(TrainOptions, TRAIN)) == values(by_keyword)
    by_keyword = PackOptions("vit_tiny_patch16_224", "x.s2a", num_classes=2)
    assert values(parsed(PackOptions, [*PACK, "--num-classes", 2])) == values(by_keyword)


def test_every_option_can_be_given(tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\n\n dog \n")
    words = [
        *PACK, "--labels", labels, "--model-kwargs", "img_size=32", "act=gelu", "--mean", 0.1, 0.2, 0.3, "--pretrained",
        "--saved-bits", "auto", "--calibration", "photos", "--image-size", 64,
    ]  # fmt: skip
    options = parsed(PackOptions, words)
    assert options.labels == ["cat", "dog"]
    assert options.model_kwargs == {"img_size": 32, "act": "gelu"}
    assert options.mean == (0.1, 0.2, 0.3)
    assert (options.pretrained, options.saved_bits, options.image_size) == (True, "auto", 64)


def test_what_alone_the_command_knows_may_override():
    parser = build_parser().parse_args(TRAIN)
    assert from_namespace(TrainOptions, parser, quiet=True, epochs=3).epochs == 3


def test_quiet_is_an_option_of_training_and_of_every_command():
    assert parsed(TrainOptions, [*TRAIN, "-q"]).quiet
    assert not parsed(TrainOptions, TRAIN).quiet


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*TRAIN, "--epochs", 0], "0 is not a positive number"),
        ([*TRAIN, "--epochs", "many"], "invalid int value: 'many'"),
        ([*TRAIN, "--lr", "inf"], "inf is not a positive number"),
        ([*TRAIN, "--lr", "nan"], "nan is not a positive number"),
        ([*TRAIN, "--clip-norm", 0], "0 is not a positive number"),
        ([*TRAIN, "--weight-decay", -1], "-1 is negative or infinite"),
        ([*TRAIN, "--seed", -1], "-1 is negative"),
        ([*TRAIN, "--label-smoothing", 1], "1 is not in [0, 1)"),
        ([*TRAIN, "--augment", "blur"], "invalid choice: 'blur'"),
        ([*PACK, "--mean", 1, 2], "expected 3 arguments"),
        ([*PACK, "--weights", "w", "--pretrained"], "not allowed with"),
        ([*PACK, "--labels", "l", "--num-classes", 2], "not allowed with"),
    ],
)
def test_what_is_not_admitted_ends_with_exit_code_2_and_names_the_option(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([str(word) for word in words])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert "argument --" in said


def test_a_budget_that_is_no_size_is_one_error():
    with pytest.raises(UserError, match="'lots' is not a size"):
        parsed(TrainOptions, [*TRAIN[:-1], "lots"])


def test_model_kwargs_are_pairs():
    with pytest.raises(UserError, match="--model-kwargs 'depth' is not KEY=VALUE"):
        parsed(PackOptions, [*PACK, "--model-kwargs", "depth"])


def test_labels_that_are_not_text(tmp_path):
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\xfd")
    done = run_command(*PACK[:3], tmp_path / "x.s2a", "--labels", tmp_path / "labels.txt")
    assert_refused(done, 2, "labels.txt", "UTF-8")


@options
class Sample(Options):
    files: Sequence[str] = option("100 % of the files", is_argument=True)
    share: float = option("a share", default=0.5, metavar="SHARE")
    secret: int = option("of the library alone", default=1, is_library_only=True)


def test_arguments_follow_the_types_of_the_fields():
    parser = argparse.ArgumentParser()
    add_options(parser, Sample)
    assert "100 % of the files" in parser.format_help()
    assert "secret" not in parser.format_help()
    given = from_namespace(Sample, parser.parse_args(["a", "b", "--share", "0.25"]))
    assert values(given) == {"files": ["a", "b"], "share": 0.25, "secret": 1}


def test_the_reference_page_has_every_option_and_its_default():
    from tools.site.command_line import reference

    page = reference().replace("\\|", "|")  # as a cell of a table has it
    for command in COMMANDS:
        section = page.split(f"## {command.name}\n")[1].split("\n## ")[0]
        for entry, about in described(command.options):
            if about.is_library_only:
                continue
            name = (about.metavar or entry.name.upper()) if about.is_argument else flag(entry)
            (row,) = (row for row in section.splitlines() if re.match(rf"\| `({{[^}}]*}}|{re.escape(name)})( |`)", row))
            assert about.help.split(";")[0] in row
            shown = "required" if entry.default is REQUIRED else f"`{entry.default}`"
            if not any(entry.default is none for none in (None, False, math.inf)):
                assert f"| {shown} |" in row


def test_the_artifact_comes_before_the_images():
    """Whatever stands between them."""
    words = ["predict", "F.s2a", "--adapter", "A", "--top", "3", "one.jpg", "two.jpg"]
    predicted = build_parser().parse_args(words)
    assert predicted.artifact == "F.s2a"
    assert predicted.images == ["one.jpg", "two.jpg"]

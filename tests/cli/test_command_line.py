"""Habits of the command line: one line an error with a suggestion, versions, quiet mode, completion."""

import re
import subprocess
import sys

import pytest

from edge_s2a.artifact.manifest import FORMAT_VERSION
from edge_s2a.cli.main import build_parser
from edge_s2a.cli.parser import commands_of
from edge_s2a.version import __version__
from tests.helpers.commands import assert_refused, run_command, run_here, run_host_here


def test_version_names_format_and_engine():
    said = run_command("--version").stdout
    assert re.fullmatch(
        rf"edge-s2a {re.escape(__version__)} "
        rf"\(format version {FORMAT_VERSION}, onnxruntime(-\w+)? [\d.]+, Python 3\.[\d.]+\)\n",
        said,
    )


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["trian"], ["'trian'", "train"]),
        (["nothing-like-it"], ["pack", "train", "export"]),
        (["plan", "x.s2a", "--memory-bugdet", "1GiB"], ["--memory-bugdet", "--memory-budget"]),
        (["plan", "x.s2a", "--memory-bugdet=1GiB"], ["--memory-budget"]),
        (["plan", "x.s2a"], ["--memory-budget", "required"]),
        (["train", "x.s2a", "--optimizer", "adam"], ["adam", "adamw"]),
    ],
)
def test_what_is_misspelt_gets_a_suggestion_in_one_line(words, parts):
    done = run_here(*words)
    assert_refused(done, 2, *parts)
    assert len(done.stderr.splitlines()) == 1


def test_a_misspelt_model_gets_a_suggestion_in_one_line(tmp_path):
    done = run_host_here("pack", "deit_tiny_patch16_22", "--num-classes", 2, "--output", tmp_path / "x.s2a")
    assert_refused(done, 2, "deit_tiny_patch16_224")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: random weights")]
    assert len(lines) == 1


def test_options_may_be_shortened(small_artifact):
    assert run_command("plan", small_artifact, "--memory", "300MiB", "--quiet").returncode == 0


def test_every_option_has_help_and_no_default_is_none():
    commands = commands_of(build_parser())
    for name, parser in commands.items():
        text = parser.format_help()
        assert "None" not in text, name
        assert all(action.help for action in parser._actions), name
    assert "(default: 15)" in commands["train"].format_help()


def test_quiet_prints_nothing_and_json_still_one_object(small_artifact, image_folder, tmp_path):
    words = [
        "train", small_artifact, "--data", image_folder, "--output", tmp_path / "run", "--memory-budget", "300MiB",
        "--epochs", 1, "--quiet",
    ]  # fmt: skip
    done = run_command(*words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = run_command("inspect", small_artifact, "--quiet", "--json")
    assert done.json["num_classes"] == 3
    adapter = tmp_path / "run" / "best.safetensors"
    image = next(image_folder.glob("val/red/*.png"))
    assert run_command("predict", small_artifact, "--adapter", adapter, image, "-q").stdout == ""


def test_nothing_is_coloured(small_artifact):
    """Whether NO_COLOR is set or not: tables and messages are plain text."""
    assert "\x1b" not in run_command("inspect", small_artifact).stdout


def test_bash_completes_commands_and_options(tmp_path):
    script = tmp_path / "completion.bash"
    script.write_text(run_command("completion", "bash").stdout)
    ask = f"""
source {script}
complete -p edge-s2a
COMP_WORDS=(edge-s2a tr) COMP_CWORD=1
$(complete -p edge-s2a | sed 's/.*-F \\([^ ]*\\).*/\\1/') edge-s2a tr edge-s2a
echo "${{COMPREPLY[@]}}"
COMP_WORDS=(edge-s2a train --memo) COMP_CWORD=2
$(complete -p edge-s2a | sed 's/.*-F \\([^ ]*\\).*/\\1/') edge-s2a --memo train
echo "${{COMPREPLY[@]}}"
"""
    lines = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[1:] == ["train", "--memory-budget"]


def test_importing_the_command_loads_no_engine():
    heavy = ("numpy", "onnxruntime", "torch")
    code = f"import sys, edge_s2a.cli.main; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

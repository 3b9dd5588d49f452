"""A command whose peak was above its budget says so, in its summary and by its exit code."""

import subprocess
import sys

from edge_s2a.cli.peak import exit_code, peak_row
from edge_s2a.system.which import IS_LINUX, PEAK
from tests.helpers.paths import PROJECT

MIB = 1 << 20
SOURCE = "" if IS_LINUX else f" ({PEAK})"


def test_a_peak_within_the_budget_is_told(capsys):
    assert peak_row(100 * MIB, 100 * MIB) == ("measured peak", f"100.0 MiB{SOURCE}")
    assert exit_code("train", 100 * MIB, 100 * MIB) == 0
    assert capsys.readouterr().err == ""


def test_a_peak_above_it_is_an_error(capsys):
    assert peak_row(100 * MIB + 1, 100 * MIB) == ("measured peak", f"100.0 MiB{SOURCE}, ABOVE THE BUDGET")
    assert exit_code("learn", 120 * MIB, 100 * MIB) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("edge-s2a learn: done, but the peak of 120.0 MiB was above the memory budget of 100.0 MiB; ")


AS_IF = """
import sys
import edge_s2a.device.memory.budget  # plans by the peak as it is
import edge_s2a.system.memory as process
peak = process.peak_resident_bytes
process.peak_resident_bytes = lambda: peak() + (1 << 40)
from edge_s2a.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_every_command_with_a_budget_ends_so(small_artifact, image_folder, tmp_path):
    """As if a tebibyte more had been in memory for a moment. What they were to do is done all the same."""
    image = next((image_folder / "val" / "red").iterdir())
    knowledge, run = tmp_path / "K.safetensors", tmp_path / "run"
    for command, *arguments in (
        ("learn", small_artifact, "--data", image_folder, "--output", knowledge),
        ("train", small_artifact, "--data", image_folder, "--output", run, "--epochs", 1),
        ("eval", small_artifact, "--adapter", knowledge, "--data", image_folder),
        ("predict", small_artifact, "--adapter", knowledge, image),
    ):
        done = subprocess.run(
            [sys.executable, "-c", AS_IF, command, *map(str, arguments), "--memory-budget", "300MiB"],
            capture_output=True,
            text=True,
            cwd=PROJECT,
            check=False,
        )
        assert done.returncode == 3, (command, done.stderr)
        assert f"edge-s2a {command}: done, but the peak of" in done.stderr
        assert done.stdout
    assert (run / "summary.json").exists()

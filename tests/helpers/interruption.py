"""Runs that are killed at random moments and resumed."""

import collections
import json
import random
import signal
import subprocess
import sys

from tests.helpers.paths import PROJECT
from tests.helpers.runs import metrics_of, step_losses

BUDGET = "400MiB"
HANG_S = 300
OPTIONS = ["--memory-budget", BUDGET, "--epochs", "3", "--batch-size", "8", "--threads", "1"]


def arguments(artifact, images, run, *more):
    return ["train", artifact, "--data", images, "--output", run, *OPTIONS, "--checkpoint-minutes", "0", *more]


def has_checkpoint(run) -> bool:
    return any((run / "checkpoint" / name).exists() for name in ("state.safetensors", "previous.safetensors"))


def outcome(run) -> list:
    """All that must be the same whatever disturbed the run."""
    files = [(run / name).read_bytes() for name in ("adapter.safetensors", "best.safetensors")]
    val_losses = [line["val_loss"] for line in metrics_of(run) if line["kind"] == "epoch"]
    return [*files, step_losses(run), val_losses]


def kill_and_resume(artifact, images, whole_run, folder, kills: int, seed: int) -> collections.Counter:
    """Starts runs, kills each at random moments and resumes it, until there were `kills` and the last run has ended.
    Counts what became of them."""
    whole, seconds = whole_run
    rng = random.Random(seed)
    counts = collections.Counter()
    while counts["kills"] < kills:
        run = folder / str(counts["runs"])
        code = None
        while code is None:
            counts["resumed"] += has_checkpoint(run)
            limit_s = rng.uniform(0.3, 1.2) * seconds if counts["kills"] < kills else HANG_S
            code = run_or_kill(artifact, images, run, limit_s)
            counts["kills"] += code is None
        summary = json.loads((run / "summary.json").read_text()) if code == 0 else None
        counts["runs"] += 1
        counts["crashes"] += code != 0
        counts["other results"] += code == 0 and outcome(run) != outcome(whole)
        counts["over budget"] += code == 0 and summary["peak_rss_bytes"] > summary["budget_bytes"]
    return counts


def run_or_kill(artifact, images, run, limit_s: float) -> int | None:
    """The exit code, or None if it was killed."""
    more = ["--resume"] if has_checkpoint(run) else []
    with start(artifact, images, run, *more) as process:
        try:
            process.communicate(timeout=limit_s)
            return process.returncode
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            return None


def assert_survived(counts) -> None:
    assert counts["crashes"] == counts["other results"] == counts["over budget"] == 0, counts


def start(artifact, images, run, *more):
    command = [sys.executable, "-m", "edge_s2a", *map(str, arguments(artifact, images, run, *more))]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

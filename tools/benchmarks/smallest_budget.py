"""Finds the smallest hard limit of memory under which a training run really passes.

    python -m tools.benchmarks.smallest_budget model.s2a --data photos

One epoch on DATA runs at the smallest budget that `edge-s2a plan` accepts, in a fresh process each time under a limit
set from outside (limited.py), which is bisected. Prints the smallest planned budget, the predicted and the
measured peak (VmHWM), and the smallest limit. A cgroup does not count pages of libraries that others have read before,
and can drop clean pages of files: a run passes under less than its peak.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

MIB = 1 << 20
LIMITED = Path(__file__).with_name("limited.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    shared = ["--batch-size", str(options.batch_size), "--threads", str(options.threads), "--json"]

    command = [sys.executable, "-m", "edge_s2a", "plan", str(options.artifact), "--memory-budget", "64GiB", *shared]
    planned = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["minimum_budget_bytes"]

    def run(limit_bytes: int) -> tuple[dict, dict | None]:
        """The report of the limit, and the summary of the run if it passed."""
        with tempfile.TemporaryDirectory() as folder:
            train = [
                sys.executable, "-m", "edge_s2a", "train", str(options.artifact), "--data", str(options.data),
                "--epochs", "1", "--output", f"{folder}/run", "--memory-budget", str(planned), *shared,
            ]  # fmt: skip
            limited = [sys.executable, "-S", "-E", str(LIMITED), str(limit_bytes), "--", *train]
            done = subprocess.run(limited, capture_output=True, text=True, check=True)
        report = json.loads(done.stderr.splitlines()[-1])
        return report, json.loads(done.stdout) if report["returncode"] == 0 else None

    report, summary = run(2 * planned)
    if summary is None:
        sys.exit(f"the run fails even under a limit of {2 * planned // MIB} MiB")
    fails, passes = 0, planned
    while passes - fails > 1 * MIB:
        middle = (fails + passes) // 2 // MIB * MIB
        if run(middle)[1] is not None:
            passes = middle
        else:
            fails = middle
    print(f"smallest planned budget {planned / MIB:8.1f} MiB")
    print(f"predicted peak          {summary['predicted_peak_bytes'] / MIB:8.1f} MiB")
    print(f"measured peak           {report['peak_rss_bytes'] / MIB:8.1f} MiB")
    print(f"smallest limit passed   {passes / MIB:8.1f} MiB ({report['mechanism']})")


if __name__ == "__main__":
    main()

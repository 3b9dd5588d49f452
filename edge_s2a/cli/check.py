"""`edge-s2a check`."""

from pathlib import Path

from edge_s2a.cli.command import Command
from edge_s2a.cli.output import Output
from edge_s2a.errors import CheckError
from edge_s2a.options import CheckOptions


def run(options: CheckOptions, output: Output) -> int:
    from edge_s2a.device import selfcheck
    from edge_s2a.device.load import load_for_check, start_engine

    settings = start_engine(options.provider, options.threads)
    result = selfcheck.check(*load_for_check(Path(options.artifact), settings))
    errors, tolerances = result["errors"], result["tolerances"]
    output.show(
        result,
        [
            ("checksums and plan", "ok"),
            *((f"golden {name}", f"relative error {error:.1e}") for name, error in errors.items()),
        ],
    )
    if not result["ok"]:
        deviating = ", ".join(
            f"{name} by {error:.1e} (tolerance {tolerances[name]:.0e})"
            for name, error in errors.items()
            if error > tolerances[name]
        )
        raise CheckError(
            f"the golden step of {options.artifact} deviates in {deviating}; "
            "this engine computes something else, do not train with it"
        )
    return 0


COMMAND = Command("check", "verify an artifact and replay its golden step on this machine", CheckOptions, run)

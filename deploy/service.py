"""Makes a fine-tuning a service of the user's systemd, which goes on after a reboot and is held to its memory budget.

    python service.py NAME train model.s2a --data photos --output run --memory-budget 192MiB
    python service.py NAME remove

with the python of ~/.local/share/edge-s2a/current/bin. NAME names the service, edge-s2a-NAME. After `train` come the
options of `edge-s2a train`. The unit is written to ~/.config/systemd/user and started. See deploy/README.md.
"""

import getpass
import os
import re
import subprocess
import sys
from pathlib import Path

from edge_s2a.artifact.files import write_bytes
from edge_s2a.cli.main import build_parser
from edge_s2a.errors import UserError
from edge_s2a.sizes import MIB, parse_size

UNITS = Path.home() / ".config" / "systemd" / "user"
# The kernel counts its own memory for the process (page tables, files' caches) in the group, and `train` looks whether
# 16 MiB more than planned can still be had.
BESIDE_THE_BUDGET_BYTES = 32 * MIB
UNIT = """\
# Written by deploy/service.py of edge-s2a.
[Unit]
Description=edge-s2a: fine-tuning {name}
# summary.json is written last: then the service has nothing left to do.
ConditionPathExists=!{run}/summary.json

[Service]
Type=exec
WorkingDirectory={folder}
ExecStart={command}
MemoryMax={memory_bytes}
MemorySwapMax=0
Nice=10
IOSchedulingClass=idle
NoNewPrivileges=yes
RestrictAddressFamilies=AF_UNIX
# SIGTERM: train ends its step, writes a checkpoint and exits with 130.
SuccessExitStatus=130
TimeoutStopSec=10min
Restart=on-failure
RestartSec=30
# Bad input, a budget too small, a failed check: no better the next time.
RestartPreventExitStatus=2 3 4

[Install]
WantedBy=default.target
"""


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or arguments[1] not in ("train", "remove"):
        print(__doc__, file=sys.stderr)
        return 2
    name, action, *options = arguments
    try:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise UserError(f"the name {name!r} is not of letters, digits, - and _ alone")
        unit = UNITS / f"edge-s2a-{name}.service"
        return remove(unit) if action == "remove" else install(unit, name, options)
    except UserError as error:
        print(f"service.py: {error}", file=sys.stderr)
        return error.exit_code


def install(unit: Path, name: str, options: list[str]) -> int:
    text = unit_text(name, options)
    planned = subprocess.run([sys.executable, "-m", "edge_s2a", *plan_arguments(options)], stdout=subprocess.DEVNULL)
    if planned.returncode:
        return planned.returncode  # it has said why
    unit.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(unit, text.encode())
    systemctl("daemon-reload")
    systemctl("enable", "--now", unit.name)
    print(f"{unit.name} runs; see it with: journalctl --user -u {unit.stem} -f")
    if not memory_is_limited():
        print("note: the kernel does not hold services of users to their memory here; see deploy/README.md")
    if not Path(f"/var/lib/systemd/linger/{getpass.getuser()}").exists():
        print("to let it run while nobody is logged in, once: loginctl enable-linger (an administrator may have to)")
    return 0


def remove(unit: Path) -> int:
    """Stops the service, with a checkpoint, and forgets it; the run's folder stays."""
    if not unit.exists():
        raise UserError(f"there is no {unit}")
    systemctl("disable", "--now", unit.name)
    unit.unlink()
    systemctl("daemon-reload")
    return 0


def unit_text(name: str, options: list[str]) -> str:
    """The unit of `edge-s2a train OPTIONS`, started in the current folder. Exits with 2 where train would."""
    parsed = build_parser().parse_args(["train", *options])
    if parsed.memory_budget == "auto":
        raise UserError("a service needs a budget of its own: --memory-budget with a size instead of auto")
    command = [sys.executable, "-m", "edge_s2a", "train", *options, "--resume-or-start"]
    folder = Path.cwd()
    return UNIT.format(
        name=name,
        run=escaped(str(folder / parsed.output)),
        folder=escaped(str(folder)),
        command=" ".join(quoted(word) for word in command),
        memory_bytes=parse_size(parsed.memory_budget) + BESIDE_THE_BUDGET_BYTES,
    )


def plan_arguments(options: list[str]) -> list[str]:
    """`edge-s2a plan` with what it has in common with `train`."""
    parsed = build_parser().parse_args(["train", *options])
    common = {
        "--memory-budget": parsed.memory_budget, "--batch-size": parsed.batch_size, "--optimizer": parsed.optimizer,
        "--threads": parsed.threads, "--provider": parsed.provider, "--require-signature": parsed.require_signature,
    }  # fmt: skip
    given = [word for option, value in common.items() if value is not None for word in (option, str(value))]
    return ["plan", str(parsed.artifact), *given]


def escaped(text: str) -> str:
    """systemd's % specifiers, in any setting."""
    return text.replace("%", "%%")


def quoted(word: str) -> str:
    """A word of ExecStart: see "Command lines" and "Quoting" of systemd's manual."""
    word = escaped(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{word}"'


def memory_is_limited() -> bool:
    """Whether the user's systemd has the memory controller of cgroup v2."""
    user = os.getuid()
    manager = Path(f"/sys/fs/cgroup/user.slice/user-{user}.slice/user@{user}.service/cgroup.controllers")
    return manager.exists() and "memory" in manager.read_text().split()


def systemctl(*arguments: str) -> None:
    try:
        done = subprocess.run(["systemctl", "--user", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UserError("there is no systemctl here; the service needs systemd") from error
    if done.returncode:
        reason = done.stderr.strip()
        raise UserError(f"systemctl --user {' '.join(arguments)} failed: {reason}; log in as this user, without sudo")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

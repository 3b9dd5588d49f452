"""Runs a command under a hard limit of its memory, set from outside, and reports how it went.

    python -m tools.benchmarks.limited 128MiB -- edge-s2a train ...

The limit is that of a cgroup, v2 (`memory.max`) or v1 (`memory.limit_in_bytes`), without swap, where this user may make
one: then the kernel kills what needs more. Elsewhere it is RLIMIT_DATA, which counts what a process has reserved,
touched or not, so RESERVED_BYTES are added: then an allocation beyond it fails.

Standard output is the command's. The last line of standard error is a JSON object: "mechanism", "returncode" (negative:
killed by that signal), and "peak_rss_bytes", the command's VmHWM.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
# Reserved by numpy's OpenBLAS and the threads' stacks, and never touched: measured 32 MiB with stacks of 1 MiB.
RESERVED_BYTES, STACK_BYTES = 40 << 20, 1 << 20
# (kind, the limit's file, the file that forbids swap and its value)
V2 = ("cgroup v2", "memory.max", "memory.swap.max")
V1 = ("cgroup v1", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")


def main() -> None:
    # Nothing large may be imported here: a process inherits the peak of whoever starts it.
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("limit_bytes", type=parse, metavar="LIMIT", help="such as 128MiB")
    parser.add_argument("command", metavar="-- COMMAND...", help="the command and its arguments")
    # Split by hand, for argparse would swallow a "--" of the command's own.
    place = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    command = sys.argv[place + 1 :]
    options = parser.parse_args([*sys.argv[1:place], *command[:1]])
    with limited(options.limit_bytes) as (mechanism, enter):
        process = subprocess.Popen(command, preexec_fn=enter)
        _, status, usage = os.wait4(process.pid, 0)
    report = {
        "mechanism": mechanism,
        "returncode": os.waitstatus_to_exitcode(status),
        "peak_rss_bytes": usage.ru_maxrss * 1024,
    }
    sys.stderr.write("\n" + json.dumps(report) + "\n")
    sys.stderr.flush()
    os._exit(0)


def parse(text: str) -> int:
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    return int(float(text[:-3]) * units[text[-3:]]) if text[-3:] in units else int(text)


@contextlib.contextmanager
def limited(limit_bytes: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """(mechanism, what a child process calls to come under the limit)."""
    group = new_cgroup(limit_bytes)
    if group is None:

        def limit_data() -> None:
            resource.setrlimit(resource.RLIMIT_STACK, (STACK_BYTES, STACK_BYTES))
            resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes + RESERVED_BYTES, limit_bytes + RESERVED_BYTES))

        yield "RLIMIT_DATA", limit_data
        return
    mechanism, folder = group
    try:
        yield mechanism, lambda: (folder / "cgroup.procs").write_text(str(os.getpid()))
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()


def new_cgroup(limit_bytes: int) -> tuple[str, Path] | None:
    """A new cgroup with that limit below this process's own or at the root, None where that is not allowed."""
    for kind, parent in parents():
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="edge-s2a-", dir=parent))
            name, limit, swap = kind
            try:
                # A write does not make the file: in a folder that is no cgroup there is none.
                for file, value in ((limit, limit_bytes), (swap, 0 if kind is V2 else limit_bytes)):
                    if file == limit or (folder / file).exists():
                        with open(folder / file, "r+") as stream:
                            stream.write(str(value))
                return name, folder
            except OSError:
                folder.rmdir()
    return None


def parents() -> Iterator[tuple[tuple[str, str, str], Path]]:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            own = CGROUPS / path.lstrip("/")
            yield from ((V2, own), (V2, own.parent), (V2, CGROUPS))
        elif "memory" in controllers.split(","):
            yield from ((V1, CGROUPS / "memory" / path.lstrip("/")), (V1, CGROUPS / "memory"))


if __name__ == "__main__":
    main()

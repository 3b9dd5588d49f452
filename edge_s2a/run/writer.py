"""What a run reports while it goes: JSON lines in a file and a progress bar on the terminal."""

import contextlib
import json
import sys
import time
from pathlib import Path

from edge_s2a.artifact.files import atomic_writer, writing
from edge_s2a.artifact.json_text import parse_json
from edge_s2a.run.reader import format_time
from edge_s2a.sizes import MIB

BAR_WIDTH = 20
REDRAW_S = 0.2


class MetricsFile:
    """Writes one JSON object a line. Raises UserError where the disk does not take it."""

    def __init__(self, path: Path, steps: int, epochs: int):
        """Keeps what `path` has of the first so many steps and epochs: what came after will be done again."""
        if steps:
            _keep(path, steps, epochs)
        with writing(path):
            self._file = open(path, "a" if steps else "w", buffering=1, encoding="utf-8")
        self._path = path

    def write(self, **values) -> None:
        with writing(self._path):
            self._file.write(json.dumps(values) + "\n")

    def close(self) -> None:
        self._file.close()


def _keep(path: Path, steps: int, epochs: int) -> None:
    """Line by line, for the file of a long run is large. Its last line may be torn."""
    try:
        with open(path, encoding="utf-8", errors="replace") as old, atomic_writer(path) as new:
            for line in old:
                with contextlib.suppress(ValueError, KeyError):
                    values = parse_json(line)
                    is_kept = values["epoch"] <= epochs if values["kind"] == "epoch" else values["step"] <= steps
                    if is_kept:
                        new.write(line.encode())
    except FileNotFoundError:
        return


class Progress:
    """A bar on a terminal; one line an epoch elsewhere; nothing where it is to be quiet."""

    def __init__(self, total_steps: int, budget_bytes: int, quiet: bool, done_steps: int = 0):
        self.quiet = quiet
        self.total_steps, self.budget_bytes = total_steps, budget_bytes
        self.first_step = done_steps
        self.start_s = time.monotonic()
        self.drawn_s = 0.0
        self.live = sys.stderr.isatty() and not quiet

    def step(self, step: int, loss: float, accuracy: float, images_per_s: float, resident: int) -> None:
        """`step` optimizer steps are done."""
        now = time.monotonic()
        if not self.live or (now - self.drawn_s < REDRAW_S and step < self.total_steps):
            return
        self.drawn_s = now
        filled = BAR_WIDTH * step // self.total_steps
        seconds = (now - self.start_s) / max(1, step - self.first_step) * (self.total_steps - step)
        sys.stderr.write(
            f"\r\x1b[K{'█' * filled}{'░' * (BAR_WIDTH - filled)} {step}/{self.total_steps} "
            f"loss {loss:.3f} acc {100 * accuracy:.1f} % {images_per_s:.1f} img/s "
            f"mem {resident / MIB:.0f}/{self.budget_bytes / MIB:.0f} MiB {format_time(seconds)} left"
        )
        sys.stderr.flush()

    def message(self, text: str) -> None:
        """A line of its own."""
        if self.quiet:
            return
        sys.stderr.write(("\r\x1b[K" if self.live else "") + text + "\n")
        sys.stderr.flush()

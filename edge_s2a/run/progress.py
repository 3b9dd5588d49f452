"""Shows how a training gets on, on the terminal where it was started."""

import sys
import time

from edge_s2a.run.text import visible
from edge_s2a.run.times import format_time
from edge_s2a.sizes import MIB

BAR_WIDTH = 20
REDRAW_S = 0.2


class Progress:
    """Draws a bar on a terminal and prints messages there and elsewhere; nothing where it is to be quiet."""

    def __init__(self, total_steps: int, budget_bytes: int, quiet: bool):
        self.quiet = quiet
        self.total_steps, self.budget_bytes = total_steps, budget_bytes
        self.continue_from(0)
        self.drawn_s = 0.0
        self.live = sys.stderr.isatty() and not quiet

    def continue_from(self, step: int) -> None:
        """Measures the time that is left from here on; `step` optimizer steps were done before."""
        self.first_step, self.start_s = step, time.monotonic()

    def step(self, step: int, loss: float, accuracy: float, images_per_s: float, resident: int) -> None:
        """Redraws the bar, at most a few times per second. step: optimizer steps done; resident: bytes."""
        self._draw(
            step,
            f"loss {loss:.3f} acc {100 * accuracy:.1f} % {images_per_s:.1f} img/s "
            f"mem {resident / MIB:.0f}/{self.budget_bytes / MIB:.0f} MiB",
        )

    def image(self, count: int) -> None:
        """The same where images are read once. count: images read so far, of `total_steps`."""
        self._draw(count, "images")

    def _draw(self, step: int, text: str) -> None:
        now = time.monotonic()
        if not self.live or (now - self.drawn_s < REDRAW_S and step < self.total_steps):
            return
        self.drawn_s = now
        filled = BAR_WIDTH * step // self.total_steps
        seconds = (now - self.start_s) / max(1, step - self.first_step) * (self.total_steps - step)
        sys.stderr.write(
            f"\r\x1b[K{'█' * filled}{'░' * (BAR_WIDTH - filled)} {step}/{self.total_steps} {text} "
            f"{format_time(seconds)} left"
        )
        sys.stderr.flush()

    def message(self, text: str) -> None:
        """Prints a line of its own."""
        if self.quiet:
            return
        lines = "\n".join(map(visible, text.split("\n")))
        sys.stderr.write(("\r\x1b[K" if self.live else "") + lines + "\n")
        sys.stderr.flush()

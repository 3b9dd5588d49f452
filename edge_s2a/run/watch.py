"""A run as one looks at it from a terminal, also over ssh, while another process trains.

It reads RUN's files alone, and imports neither the engine nor numpy: what it takes, the run may lack.
"""

import contextlib
import itertools
import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
import unicodedata
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edge_s2a.errors import UserError
from edge_s2a.run.reader import MIB, describe_event, format_time, number, section
from edge_s2a.run.view import RECENT_STEPS, View, mean, open_view, refreshed

REDRAW_S = 1.0
WIDEST = 100
SPARKS = "▁▂▃▄▅▆▇█"
ALTERNATE_SCREEN, MAIN_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
COLOURS = {"bold": "1", "faint": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


# -- a frame -------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """Text of one colour, by its name in COLOURS; "" leaves the terminal's."""

    text: str
    colour: str = ""


Line = list[Piece]


def frame(view: View, width: int, height: int, now_s: float) -> list[Line]:
    """At most `height` lines of at most `width` columns."""
    width = min(width, WIDEST)
    lines = [*heading(view, width, now_s), [], *measures(view, width)]
    events = event_lines(view, height - len(lines) - 2)
    if events:
        lines += [[], *events]
    return [cut(line, width) for line in lines[:height]]


def heading(view: View, width: int, now_s: float) -> list[Line]:
    artifact, settings = section(view.facts, "artifact"), section(view.facts, "settings")
    state = view.state(now_s)
    colour = {"finished": "green", "running": "cyan", "starting": "cyan"}.get(state, "yellow")
    title = " ".join(str(artifact[key]) for key in ("model", "adapter") if key in artifact) or view.folder.name
    title = visible(title)
    gap = max(2, width - columns(title) - columns(state))
    data = f"{visible(str(settings['data']))} → " if "data" in settings else ""
    return [
        [Piece(title, "bold"), Piece(" " * gap), Piece(state, colour)],
        [Piece(f"{data}{visible(str(view.folder))}", "faint")],
    ]


def measures(view: View, width: int) -> list[Line]:
    if not view.step:
        return [progress(view, width), memory(view, width)]
    return [
        progress(view, width),
        loss(view, width),
        accuracy(view),
        rates(view),
        memory(view, width),
        *([temperature(view)] if number(view.step.get("temperature_c")) is not None else []),
    ]


def labelled(name: str, *pieces: Piece) -> Line:
    return [Piece(f"{name:<9}", "faint"), *pieces]


def progress(view: View, width: int) -> Line:
    done, total = view.steps, view.total_steps
    if not total:
        return labelled("progress", Piece(f"{done} steps" if done else "no step yet"))
    epochs = number(section(view.facts, "settings").get("epochs"))
    epoch = number(view.step.get("epoch"))
    left_s = view.seconds_left()
    text = f" {done}/{total}"
    text += "" if epoch is None else f"  epoch {epoch}" + ("" if epochs is None else f"/{epochs}")
    text += "" if left_s is None else f"  {format_time(left_s)} left"
    return labelled("progress", *bar(done / total, bar_width(text, width), "cyan"), Piece(text))


def loss(view: View, width: int) -> Line:
    val_loss = number(view.epoch.get("val_loss"))
    text = f" {mean(view.losses[-RECENT_STEPS:]):.4f}" + ("" if val_loss is None else f"  val {val_loss:.4f}")
    return labelled("loss", Piece(sparkline(view.losses, bar_width(text, width)), "cyan"), Piece(text))


def accuracy(view: View) -> Line:
    """Of the last epoch; of the last step before there is one."""
    values = {
        "val": number(view.epoch.get("val_accuracy")),
        "best": view.best_accuracy,
        "train": number(view.epoch.get("train_accuracy")),
    }
    texts = [f"{name} {percent(value)}" for name, value in values.items() if value is not None]
    return labelled("accuracy", Piece("  ".join(texts) or f"step {percent(view.step['accuracy'])}"))


def rates(view: View) -> Line:
    return labelled("rate", Piece(f"lr {view.step['lr']:.2e}  {view.step['images_per_s']:.1f} images/s"))


def memory(view: View, width: int) -> Line:
    """Of the finished run its peak, of one that goes on what it has now."""
    resident = number(view.summary.get("peak_rss_bytes")) or number(view.step.get("rss_bytes"))
    planned = number(section(view.facts, "plan").get("predicted_peak_bytes"))
    budget = view.budget_bytes
    if resident is None:
        texts = [] if budget is None else [f"budget {mib(budget)}"]
        texts += [] if planned is None else [f"planned {mib(planned)}"]
        return labelled("memory", Piece("  ".join(texts) or "nothing measured yet"))
    if not budget:
        return labelled("memory", Piece(mib(resident)))
    text = f" {resident / MIB:.1f} of {mib(budget)}" + ("" if planned is None else f"  planned {planned / MIB:.1f}")
    colour = "green" if resident <= budget else "red"
    return labelled("memory", *bar(resident / budget, bar_width(text, width), colour), Piece(text))


def temperature(view: View) -> Line:
    degrees = view.step["temperature_c"]
    limit = number(section(view.facts, "settings").get("max_temperature_c"))
    is_hot = limit is not None and degrees >= limit
    rests = "" if limit is None else f"  rests from {limit:g} °C"
    return labelled("heat", Piece(f"{degrees:.1f} °C", "red" if is_hot else ""), Piece(rests, "faint"))


def event_lines(view: View, most: int) -> list[Line]:
    """The last ones, the newest at the bottom."""
    shown = view.events[-most:] if most > 0 else []
    return [
        [Piece(f"step {event.get('step', '?')}: ", "faint"), Piece(visible(describe_event(event)), "yellow")]
        for event in shown
    ]


def bar_width(text: str, width: int) -> int:
    """What a bar may take between its label and `text`."""
    return max(6, min(40, width - 9 - columns(text)))


def bar(share: float, width: int, colour: str) -> list[Piece]:
    filled = round(min(1.0, max(0.0, share)) * width)
    return [Piece("█" * filled, colour), Piece("░" * (width - filled), "faint")]


def sparkline(values: array, width: int) -> str:
    """Means of equal parts of `values`, the whole run in at most `width` characters."""
    count = min(width, len(values))
    edges = [len(values) * part // count for part in range(count + 1)] if count else []
    means = [mean(values[start:end]) for start, end in itertools.pairwise(edges)]
    lowest, highest = min(means, default=0.0), max(means, default=0.0)
    scale = (len(SPARKS) - 1) / (highest - lowest) if highest > lowest else 0.0
    return "".join(SPARKS[round((value - lowest) * scale)] for value in means)


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def mib(size: float) -> str:
    return f"{size / MIB:.1f} MiB"


def visible(text: str) -> str:
    """Without what a terminal obeys: names come from files."""
    return "".join(character if character.isprintable() else "�" for character in text)


def columns(text: str) -> int:
    """That a terminal takes for it."""
    return sum(character_columns(character) for character in text)


def character_columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(line: Line, width: int) -> Line:
    """What fits into `width` columns, with an ellipsis where something does not."""
    if sum(columns(piece.text) for piece in line) <= width:
        return line
    kept, left = [], width - 1
    for text, colour in line:
        end = 0
        while end < len(text) and left >= character_columns(text[end]):
            left -= character_columns(text[end])
            end += 1
        kept.append(Piece(text[:end], colour))
        if end < len(text):
            break
    return [*kept, Piece("…")]


def rendered(line: Line, is_coloured: bool) -> str:
    if not is_coloured:
        return "".join(piece.text for piece in line).rstrip()
    return "".join(f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if colour else text for text, colour in line)


# -- the terminal --------------------------------------------------------------------------------------


def watch(folder: Path, once: bool) -> None:
    """Draws the run in `folder` about once a second until it is finished, or until q or Ctrl-C; `once`, or where
    standard output is no terminal, one frame. Raises UserError where there is no such folder."""
    require_folder(folder)
    view = open_view(folder)
    is_terminal = sys.stdout.isatty()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a serial console may know no blocks
    if is_terminal and not once:
        with full_screen() as keys:
            while not view.is_finished:
                draw(view)
                if wants_to_leave(keys):
                    break
                view = refreshed(view)
    print("\n".join(screen_lines(view, is_terminal)), flush=True)


def snapshot(folder: Path) -> dict:
    """What a frame shows, as plain values. Raises UserError where there is no such folder."""
    require_folder(folder)
    return open_view(folder).plain(time.time())


def require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the one that was --output of edge-s2a train")


def screen_lines(view: View, is_terminal: bool) -> list[str]:
    width, height = shutil.get_terminal_size()
    is_coloured = is_terminal and not os.environ.get("NO_COLOR")
    return [rendered(line, is_coloured) for line in frame(view, width, height - 1, time.time())]


def draw(view: View) -> None:
    lines = (line + REST_OF_LINE for line in screen_lines(view, True))
    sys.stdout.write(HOME + "\n".join(lines) + REST_OF_SCREEN)
    sys.stdout.flush()


@contextlib.contextmanager
def full_screen() -> Iterator[int | None]:
    """Yields the descriptor of the keyboard, None where there is none. Ctrl-C and SIGTERM end the block, and however it
    ends the terminal is then as it was before."""
    keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    settings = None if keys is None else termios.tcgetattr(keys)
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.stdout.write(ALTERNATE_SCREEN)
    try:
        if keys is not None:
            tty.setcbreak(keys)
        with contextlib.suppress(KeyboardInterrupt):
            yield keys
    finally:
        sys.stdout.write(MAIN_SCREEN)
        sys.stdout.flush()
        if settings is not None:
            termios.tcsetattr(keys, termios.TCSADRAIN, settings)
        signal.signal(signal.SIGTERM, previous)


def wants_to_leave(keys: int | None) -> bool:
    """Waits until the next drawing is due; True for q."""
    if keys is None:
        time.sleep(REDRAW_S)
        return False
    end_s = time.monotonic() + REDRAW_S
    while (left_s := end_s - time.monotonic()) > 0:
        ready, _, _ = select.select([keys], [], [], left_s)
        if ready:
            pressed = os.read(keys, 64)
            if not pressed or b"q" in pressed.lower():
                return True
    return False

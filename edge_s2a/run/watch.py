"""Draws a run in a terminal, also over ssh, while another process trains.

It reads RUN's files and nothing else, and imports neither the engine nor numpy: memory that it takes the run may lack.
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
from typing import Any, NamedTuple

from edge_s2a.errors import UserError
from edge_s2a.run.convert import number
from edge_s2a.run.events import describe_event
from edge_s2a.run.schema import StepLine
from edge_s2a.run.times import format_time
from edge_s2a.run.view import RECENT_STEPS, View, mean, open_view, refreshed
from edge_s2a.sizes import MIB

REDRAW_S = 1.0
WIDEST = 100
SPARKS = "▁▂▃▄▅▆▇█"
ALTERNATE_SCREEN, MAIN_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
COLOURS = {"bold": "1", "faint": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


# -- a frame -------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """Text of one colour, named as in COLOURS; "" is the terminal's own."""

    text: str
    colour: str = ""


Line = list[Piece]


def frame(view: View, width: int, height: int, now_s: float) -> list[Line]:
    """Returns at most `height` lines of at most `width` columns. now_s: seconds since 1970."""
    width = min(width, WIDEST)
    lines = [*heading(view, width, now_s), [], *measures(view, width)]
    events = event_lines(view, height - len(lines) - 2)
    if events:
        lines += [[], *events]
    return [cut(line, width) for line in lines[:height]]


def heading(view: View, width: int, now_s: float) -> list[Line]:
    artifact, data = view.facts.artifact, view.facts.settings.get("data")
    state = view.state(now_s)
    colour = {"finished": "green", "running": "cyan", "starting": "cyan"}.get(state, "yellow")
    title = visible(" ".join(filter(None, (artifact.model, artifact.adapter))) or view.folder.name)
    gap = max(2, width - columns(title) - columns(state))
    source = "" if data is None else f"{visible(str(data))} → "
    return [
        [Piece(title, "bold"), Piece(" " * gap), Piece(state, colour)],
        [Piece(f"{source}{visible(str(view.folder))}", "faint")],
    ]


def measures(view: View, width: int) -> list[Line]:
    step = view.step
    if step is None:
        return [progress(view, width), memory(view, width)]
    return [
        progress(view, width),
        loss(view, width),
        accuracy(view, step),
        rates(step),
        memory(view, width),
        *([] if step.temperature_c is None else [temperature(view, step.temperature_c)]),
    ]


def labelled(name: str, *pieces: Piece) -> Line:
    return [Piece(f"{name:<9}", "faint"), *pieces]


def progress(view: View, width: int) -> Line:
    done, total = view.steps, view.total_steps
    if not total:
        return labelled("progress", Piece(f"{done} steps" if done else "no step yet"))
    epochs = number(view.facts.settings.get("epochs"))
    left_s = view.seconds_left()
    text = f" {done}/{total}"
    text += "" if view.step is None else f"  epoch {view.step.epoch}" + ("" if epochs is None else f"/{epochs}")
    text += "" if left_s is None else f"  {format_time(left_s)} left"
    return labelled("progress", *bar(done / total, bar_width(text, width), "cyan"), Piece(text))


def loss(view: View, width: int) -> Line:
    val_loss = None if view.epoch is None else view.epoch.val_loss
    text = f" {mean(view.losses[-RECENT_STEPS:]):.4f}" + ("" if val_loss is None else f"  val {val_loss:.4f}")
    return labelled("loss", Piece(sparkline(view.losses, bar_width(text, width)), "cyan"), Piece(text))


def accuracy(view: View, step: StepLine) -> Line:
    """Shows the accuracies of the last epoch; that of the last step before there is an epoch."""
    val, train = (None, None) if view.epoch is None else (view.epoch.val_accuracy, view.epoch.train_accuracy)
    values = (("val", val), ("best", view.best_accuracy), ("train", train))
    texts = [f"{name} {percent(value)}" for name, value in values if value is not None]
    return labelled("accuracy", Piece("  ".join(texts) or f"step {percent(step.accuracy)}"))


def rates(step: StepLine) -> Line:
    return labelled("rate", Piece(f"lr {step.lr:.2e}  {step.images_per_s:.1f} images/s"))


def memory(view: View, width: int) -> Line:
    resident, budget, planned = view.resident_bytes, view.budget_bytes, view.facts.plan.predicted_peak_bytes
    if resident is None:
        texts = [] if budget is None else [f"budget {mib(budget)}"]
        texts += [] if planned is None else [f"planned {mib(planned)}"]
        return labelled("memory", Piece("  ".join(texts) or "nothing measured yet"))
    if not budget:
        return labelled("memory", Piece(mib(resident)))
    text = f" {resident / MIB:.1f} of {mib(budget)}" + ("" if planned is None else f"  planned {planned / MIB:.1f}")
    colour = "green" if resident <= budget else "red"
    return labelled("memory", *bar(resident / budget, bar_width(text, width), colour), Piece(text))


def temperature(view: View, degrees: float) -> Line:
    limit = number(view.facts.settings.get("max_temperature_c"))
    is_hot = limit is not None and degrees >= limit
    rests = "" if limit is None else f"  rests from {limit:g} °C"
    return labelled("heat", Piece(f"{degrees:.1f} °C", "red" if is_hot else ""), Piece(rests, "faint"))


def event_lines(view: View, most: int) -> list[Line]:
    """Shows the last `most` events, the newest at the bottom."""
    shown = view.events[-most:] if most > 0 else []
    return [
        [
            Piece(f"step {'?' if event.step is None else event.step}: ", "faint"),
            Piece(visible(describe_event(event)), "yellow"),
        ]
        for event in shown
    ]


def bar_width(text: str, width: int) -> int:
    """Returns the columns that a bar may take between its label and `text`."""
    return max(6, min(40, width - 9 - columns(text)))


def bar(share: float, width: int, colour: str) -> list[Piece]:
    filled = round(min(1.0, max(0.0, share)) * width)
    return [Piece("█" * filled, colour), Piece("░" * (width - filled), "faint")]


def sparkline(values: array, width: int) -> str:
    """Draws means of equal parts of `values`, a whole run, in at most `width` characters."""
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
    """Replaces what a terminal would obey: names come from files."""
    return "".join(character if character.isprintable() else "�" for character in text)


def columns(text: str) -> int:
    """Counts the columns that a text takes in a terminal."""
    return sum(character_columns(character) for character in text)


def character_columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(line: Line, width: int) -> Line:
    """Returns what fits into `width` columns, with an ellipsis where something does not."""
    if sum(columns(piece.text) for piece in line) <= width:
        return line
    kept: Line = []
    left = width - 1
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
    """Draws the run in `folder` about once a second until it is finished, or until q or Ctrl-C.

    Draws one frame where `once` is set or standard output is no terminal. Raises UserError if there is no such folder.
    """
    require_folder(folder)
    view = open_view(folder)
    is_terminal = sys.stdout.isatty()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a serial console may lack block characters
    if is_terminal and not once:
        with full_screen() as keys:
            while not view.is_finished:
                draw(view)
                if wants_to_leave(keys):
                    break
                view = refreshed(view)
    print("\n".join(screen_lines(view, is_terminal)), flush=True)


def snapshot(folder: Path) -> dict[str, Any]:
    """Returns what a frame shows as plain values. Raises UserError if there is no such folder."""
    require_folder(folder)
    return open_view(folder).plain(time.time())


def require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder that was --output of edge-s2a train")


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
    """Switches the terminal to a screen of its own for the block, and restores it however the block ends.

    Yields the file descriptor of the keyboard, None where there is none. Ctrl-C and SIGTERM end the block.
    """
    keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    settings = None if keys is None else termios.tcgetattr(keys)
    # SIGINT too: a shell starts what runs in the background with it ignored.
    previous = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    sys.stdout.write(ALTERNATE_SCREEN)
    try:
        if keys is not None:
            tty.setcbreak(keys)
        with contextlib.suppress(KeyboardInterrupt):
            yield keys
    finally:
        sys.stdout.write(MAIN_SCREEN)
        sys.stdout.flush()
        if keys is not None and settings is not None:
            termios.tcsetattr(keys, termios.TCSADRAIN, settings)
        for number, handler in previous.items():
            signal.signal(number, handler)


def wants_to_leave(keys: int | None) -> bool:
    """Waits until the next frame is due or a key is pressed. Returns True for q, or if the keyboard is gone."""
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

"""Makes the lines of a frame: coloured pieces of text that fit a terminal and tell it nothing to obey."""

import itertools
import unicodedata
from array import array
from typing import NamedTuple

from edge_s2a.run.view import mean
from edge_s2a.sizes import MIB

WIDEST = 100  # columns of a frame
SPARKS = "▁▂▃▄▅▆▇█"
COLOURS = {"bold": "1", "faint": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Piece(NamedTuple):
    """Text of one colour, named as in COLOURS; "" is the terminal's own."""

    text: str
    colour: str = ""


Line = list[Piece]


def heading(title: str, state: str, colour: str, where: str, width: int) -> list[Line]:
    """Returns what is shown and how it is, and where it is; title and place come from files."""
    title = visible(title)
    gap = max(2, width - columns(title) - columns(state))
    return [[Piece(title, "bold"), Piece(" " * gap), Piece(state, colour)], [Piece(visible(where), "faint")]]


def labelled(name: str, *pieces: Piece) -> Line:
    return [Piece(f"{name:<9}", "faint"), *pieces]


def memory(resident: int | None, budget: int | None, planned: int | None, width: int) -> Line:
    """Returns the memory of a process against its budget; all in bytes."""
    if resident is None:
        texts = [] if budget is None else [f"budget {mib(budget)}"]
        texts += [] if planned is None else [f"planned {mib(planned)}"]
        return labelled("memory", Piece("  ".join(texts) or "nothing measured yet"))
    if not budget:
        return labelled("memory", Piece(mib(resident)))
    text = f" {resident / MIB:.1f} of {mib(budget)}" + ("" if planned is None else f"  planned {planned / MIB:.1f}")
    colour = "green" if resident <= budget else "red"
    return labelled("memory", *bar(resident / budget, bar_width(text, width), colour), Piece(text))


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

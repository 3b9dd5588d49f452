"""Makes the HTML elements of the page. Their text comes from files, so all of it is escaped."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

from edge_s2a.report.charts import Picture

WIDE = 6.0  # inches: figures above it cannot be read in half of a page


def escaped(value: Any) -> str:
    """Returns the text of a value as HTML, also where UTF-8 lacks a character of it."""
    return html.escape(str(value).encode(errors="replace").decode())


def titled(title: str, content: str) -> str:
    return f"<section>\n<h2>{escaped(title)}</h2>\n{content}\n</section>"


def paragraph(text: str) -> str:
    return f'<p class="faint">{escaped(text)}</p>'


def card(title: str, content: str) -> str:
    return f'<div class="card"><h3>{escaped(title)}</h3>{content}</div>'


def cards(contents: Iterable[str]) -> str:
    content = "".join(contents)
    return f'<div class="cards">{content}</div>' if content else ""


def figure(picture: Picture, svg: str) -> str:
    """A wide figure has a row to itself, and a box that scrolls where even that is too narrow."""
    is_wide = picture.size[0] > WIDE
    content = f'<div class="scroll" tabindex="0">{svg}</div>' if is_wide else svg
    return (
        f'<figure class="card{" wide" if is_wide else ""}" role="group" aria-label="{escaped(picture.title)}">'
        f'<h3>{escaped(picture.title)}</h3><p class="faint">{escaped(picture.caption)}</p>{content}</figure>'
    )


def tile(name: str, value: str, note: str, extra: str = "") -> str:
    amount, _, unit = value.partition(" ")
    small = f" <small>{escaped(unit)}</small>" if unit else ""
    return (
        f'<div class="tile"><div class="name">{escaped(name)}</div><div class="value">{escaped(amount)}{small}</div>'
        f'{extra}<div class="note">{escaped(note)}</div></div>'
    )


def gauge(size: float, limit: float) -> str:
    kind = "gauge over" if size > limit else "gauge"
    return f'<div class="{kind}"><span style="width: {min(100.0, 100 * size / limit):.1f}%"></span></div>'


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In a box of its own that scrolls; the last column is of numbers where its title says so."""
    is_number = titles[-1] in ("size", "images")
    last = ' class="number"' if is_number else ""
    *firsts, end = titles
    head = "".join(f"<th>{escaped(title)}</th>" for title in firsts) + f"<th{last}>{escaped(end)}</th>"
    body = "".join(
        "<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row[:-1]) + f"<td{last}>{escaped(row[-1])}</td></tr>"
        for row in rows
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and what they are."""
    return f"<dl>{''.join(f'<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>' for name, value in pairs)}</dl>"

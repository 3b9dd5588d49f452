"""The page: one HTML document that needs nothing but itself. All text comes from files, so all of it is escaped."""

import html
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_s2a.report.confusion import Confusion
from edge_s2a.report.figures import Picture
from edge_s2a.report.record import Record
from edge_s2a.run.reader import MIB, describe_event, format_time, number, section
from edge_s2a.version import __version__

STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
# Whatever a file has smuggled in: it may load and run nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
NOTHING = "–"
WIDE = 6.0  # inches: figures above it cannot be read in half of a page

Drawn = tuple[Picture, str]  # with its <svg> elements


def page(record: Record, confusion: Confusion, drawn: Sequence[Drawn], thumbnails: dict[str, str]) -> str:
    """The HTML document. thumbnails: image -> data URI, of those that could be read."""
    figures = {picture.name: figure(picture, svg) for picture, svg in drawn}
    title = escaped(title_of(record))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} – edge-s2a</title>
<style>
{STYLE}</style>
</head>
<body>
<main>
{heading(record)}
{tiles(record, confusion)}
{learning(record, figures)}
{memory(record, figures)}
{confusions(confusion, figures, thumbnails)}
{on_the_way(record, figures)}
{configuration(record)}
</main>
<footer>Written by edge-s2a {escaped(__version__)} on {escaped(now())} from {escaped(record.folder)}</footer>
</body>
</html>
"""


# -- sections ------------------------------------------------------------------------------------------


def heading(record: Record) -> str:
    lines = [
        sentence("adapter", record.artifact.get("adapter")),
        sentence("trained on", record.settings.get("data")),
        sentence("started", human_time(record.facts.get("started"))),
    ]
    return f"""<header>
<p class="above">{state(record)}</p>
<h1>{escaped(title_of(record))}</h1>
<p class="faint">{" · ".join(line for line in lines if line)}</p>
</header>"""


def title_of(record: Record) -> str:
    return str(record.artifact.get("model") or record.folder.absolute().name)


def state(record: Record) -> str:
    if record.is_finished:
        return '<span class="state finished">finished</span>'
    done = record.steps[-1]["step"] if record.steps else 0
    total = number(record.facts.get("steps"))
    of_total = f" of {total}" if total else ""
    return f'<span class="state unfinished">not finished: {done}{of_total} steps</span>'


def sentence(what: str, value: Any) -> str:
    return f"{what} {escaped(value)}" if value else ""


def tiles(record: Record, confusion: Confusion) -> str:
    return f'<div class="tiles">{"".join([*learned_tiles(record), *cost_tiles(record)])}</div>'


def learned_tiles(record: Record) -> Iterable[str]:
    accuracies = [number(line.get("val_accuracy")) for line in record.epochs]
    accuracies = [value for value in accuracies if value is not None]
    if accuracies:
        yield tile("Validation accuracy", percent(accuracies[-1]), f"best {percent(max(accuracies))}")
    losses = [line for line in record.epochs if number(line.get("train_loss")) is not None]
    if losses:
        last = losses[-1]
        val = number(last.get("val_loss"))
        yield tile("Training loss", f"{last['train_loss']:.3f}", "" if val is None else f"validation {val:.3f}")
    trained, total = (number(record.artifact.get(f"{kind}_parameters")) for kind in ("trainable", "total"))
    if trained and total:
        yield tile("Trained", f"{100 * trained / total:.2f} %", f"{trained:,} of {total:,} parameters")


def cost_tiles(record: Record) -> Iterable[str]:
    peak, budget = record.peak_bytes, record.budget_bytes
    if peak:
        note = f"of {mib(budget)}" if budget else ""
        planned = f", planned {mib(record.predicted_bytes)}" if record.predicted_bytes else ""
        yield tile("Peak memory", mib(peak), note + planned, gauge(peak, budget) if budget else "")
    if record.steps:
        images = sum(step["images_per_s"] * step["seconds"] for step in record.steps)
        seconds = sum(step["seconds"] for step in record.steps)
        whole = number(record.summary.get("seconds"))
        rate = f"{images / seconds:.1f} images/s in steps" if seconds else ""
        yield tile("Time", format_time(whole or seconds), rate)


def learning(record: Record, figures: dict[str, str]) -> str:
    names = ("loss", "accuracy", "learning_rate", "throughput")
    content = cards(figures[name] for name in names if name in figures)
    return titled("Learning", content or paragraph("No step has been recorded yet."))


def memory(record: Record, figures: dict[str, str]) -> str:
    content = cards(figures[name] for name in ("memory", "plan") if name in figures)
    return titled("Memory", content) if content else ""


def confusions(confusion: Confusion, figures: dict[str, str], thumbnails: dict[str, str]) -> str:
    if not confusion.images:
        return titled("Confusions", paragraph("No validation has left its predictions yet."))
    right = confusion.images - confusion.wrong
    said = paragraph(f"The last validation: {right} of {confusion.images} images right, {confusion.wrong} wrong.")
    rows = [(label, predicted, str(count)) for label, predicted, count in confusion.worst_pairs]
    pairs = card("Taken for another most often", table(("true", "predicted", "images"), rows)) if rows else ""
    matrix = cards(part for part in (figures.get("confusion"), pairs) if part)
    return titled("Confusions", said + matrix + (worst_images(confusion, thumbnails) if confusion.wrong else ""))


def worst_images(confusion: Confusion, thumbnails: dict[str, str]) -> str:
    shown = [line for line in confusion.worst if line["image"] in thumbnails]
    title = "Wrong, and surest of it"
    if not shown:
        return card(title, paragraph("The images themselves are no longer where the run found them."))
    items = "".join(
        f'<li><img src="{thumbnails[line["image"]]}" alt="{escaped(line["image"])}" title="{escaped(line["image"])}">'
        f'<div class="wrong" title="{escaped(line["predicted"])}">{escaped(line["predicted"])}, '
        f"{percent(line['probability'])}</div>"
        f'<div title="{escaped(line["label"])}">is <span class="right">{escaped(line["label"])}</span></div></li>'
        for line in shown
    )
    gone = len(confusion.worst) - len(shown)
    note = f"{gone} more are no longer where the run found them." if gone else ""
    return card(title, f'<ul class="images">{items}</ul>' + (paragraph(note) if note else ""))


def on_the_way(record: Record, figures: dict[str, str]) -> str:
    temperature = [figures["temperature"]] if "temperature" in figures else []
    return titled("On the way", cards([*temperature, events(record), skipped_images(record)]))


def events(record: Record) -> str:
    rows = [(str(event.get("step", NOTHING)), sentence_case(describe_event(event))) for event in record.events]
    nothing = paragraph("Nothing out of the ordinary has happened.")
    return card("Events", table(("step", "what happened"), rows) if rows else nothing)


def skipped_images(record: Record) -> str:
    skipped = section(record.summary, "skipped")
    if skipped:
        return card("Skipped images", table(("image", "why"), list(skipped.items())))
    count = number((record.epochs[-1] if record.epochs else {}).get("skipped_images"))
    text = f"{count} so far; the finished run names them." if count and not record.is_finished else "None."
    return card("Skipped images", paragraph(text))


def configuration(record: Record) -> str:
    facts = record.facts
    if not facts:
        return titled("Configuration", paragraph("This run left no run.json: an older version trained it."))
    plan = {name: value for name, value in record.plan.items() if name != "parts"}
    parts = {f"{name}_bytes": size for name, size in section(record.plan, "parts").items()}
    data = {
        f"{split} {name}": value
        for split in ("train", "val")
        for name, value in section(section(facts, "data"), split).items()
    }
    runs = {name: facts.get(name) for name in ("started", "steps", "resumed_at_step", "providers")}
    blocks = {
        "Settings": record.settings,
        "Model and adapter": record.artifact,
        "Memory plan": {**plan, **parts},
        "Data": {**data, "classes": facts.get("classes")},
        "Machine": {**runs, **section(facts, "machine")},
        "Versions": section(facts, "versions"),
    }
    content = "".join(card(title, definitions(values)) for title, values in blocks.items() if values)
    return titled("Configuration", f'<div class="columns">{content}</div>')


# -- elements ------------------------------------------------------------------------------------------


def escaped(value: Any) -> str:
    """Of any text, also such that UTF-8 does not have."""
    return html.escape(str(value).encode(errors="replace").decode())


def titled(title: str, content: str) -> str:
    return f"<section>\n<h2>{escaped(title)}</h2>\n{content}\n</section>"


def paragraph(text: str) -> str:
    return f'<p class="faint">{escaped(text)}</p>'


def card(title: str, content: str) -> str:
    heading = f"<h3>{escaped(title)}</h3>" if title else ""
    return f'<div class="card">{heading}{content}</div>'


def cards(contents: Iterable[str]) -> str:
    contents = list(contents)
    return f'<div class="cards">{"".join(contents)}</div>' if contents else ""


def figure(picture: Picture, svg: str) -> str:
    """One that is wide has a row to itself, and a box that scrolls where even that is too narrow."""
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


def table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
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


def definitions(values: dict) -> str:
    rows = (f"<dt>{escaped(label(name))}</dt><dd>{escaped(shown(name, value))}</dd>" for name, value in values.items())
    return f"<dl>{''.join(rows)}</dl>"


# -- words and numbers ---------------------------------------------------------------------------------


def label(name: str) -> str:
    return str(name).removesuffix("_bytes").removesuffix("_c").replace("_", " ")


def shown(name: str, value: Any) -> str:
    """As text for a reader; `name` tells the unit."""
    if value is None or value in ({}, []):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if str(name).endswith("_bytes") and number(value) is not None:
        return f"{mib(value)}" if value >= 0.1 * MIB else f"{value:,} bytes"
    if str(name).endswith("_c"):
        return f"{value} °C"
    if str(name) == "started":
        return human_time(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and str(name).endswith("_parameters") else str(value)


def mib(size: Any) -> str:
    if number(size) is None:
        return NOTHING
    return f"{size / MIB:.1f} MiB" if size < 10 << 30 else f"{size / (1 << 30):.1f} GiB"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def human_time(text: Any) -> str:
    try:
        return datetime.fromisoformat(text).astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (TypeError, ValueError, OverflowError):
        return str(text or "")


def now() -> str:
    return human_time(datetime.now(timezone.utc).isoformat())


def sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]

"""Puts values of a run into words for a reader."""

from datetime import datetime, timezone
from typing import Any

from edge_s2a.run.convert import number
from edge_s2a.sizes import MIB

NOTHING = "–"


def label(name: str) -> str:
    """Returns the name of a value without its unit."""
    return name.removesuffix("_bytes").removesuffix("_c").replace("_", " ")


def shown(name: str, value: Any) -> str:
    """Returns any JSON value as text; `name` tells the unit."""
    if value is None or value in ({}, []):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_bytes") and number(value) is not None:
        return f"{mib(value)}" if value >= 0.1 * MIB else f"{value:,} bytes"
    if name.endswith("_c"):
        return f"{value} °C"
    if name == "started":
        return human_time(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and name.endswith("_parameters") else str(value)


def mib(size: float | None) -> str:
    """Returns bytes as MiB, or as GiB where they are many."""
    if size is None:
        return NOTHING
    return f"{size / MIB:.1f} MiB" if size < 10 << 30 else f"{size / (1 << 30):.1f} GiB"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def human_time(text: Any) -> str:
    """Returns an ISO 8601 text as one for readers, in UTC; anything else as it is."""
    try:
        return datetime.fromisoformat(text).astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (TypeError, ValueError, OverflowError):
        return str(text or "")


def now() -> str:
    return human_time(datetime.now(timezone.utc).isoformat())


def sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]

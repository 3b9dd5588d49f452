"""What a run leaves in its folder, read again while it goes on or long afterwards; docs/RUN.md documents the files.

Nothing here needs more than Python itself: a terminal that watches a run shares the device's memory with it.
"""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edge_s2a.artifact.files import read_bytes
from edge_s2a.artifact.json_text import parse_json
from edge_s2a.errors import UserError

RUN, METRICS, SUMMARY, PREDICTIONS = "run.json", "metrics.jsonl", "summary.json", "predictions.jsonl"
EVENTS = ("skipped", "restored", "rest", "pressure")
STEP_NUMBERS = ("epoch", "step", "loss", "accuracy", "lr", "images_per_s", "rss_bytes", "seconds")
MIB = 1 << 20


def is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (RUN, METRICS, SUMMARY))


def read_object(path: Path) -> dict:
    """The JSON object in `path`, {} where there is no such file. Raises UserError for anything else."""
    if not path.exists():
        return {}
    try:
        values = parse_json(read_bytes(path, "file"))
    except ValueError as error:
        raise UserError(f"{path} is not what edge-s2a train writes: {error}; remove it") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not what edge-s2a train writes: it holds no object; remove it")
    return values


class GrowingLines:
    """A file of JSON objects, one a line, to which another process may be adding."""

    def __init__(self, path: Path):
        self.path = path
        self._offset = 0

    def new(self) -> Iterator[dict]:
        """The objects that were added since the last call; none where there is no file. A line that has no end is left
        for the next call, and one that is no JSON object, as power that fails leaves it, is passed over."""
        try:
            file = open(self.path, "rb")
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}; check the path") from error
        with file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                with contextlib.suppress(ValueError):
                    values = parse_json(line)
                    if isinstance(values, dict):
                        yield values


def number(value: Any) -> float | int | None:
    """`value` if it is a finite number of a size that can be computed with, None otherwise."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) < 1e18 else None


def section(values: Any, name: str) -> dict:
    """values[name] if both are objects, {} otherwise."""
    part = values.get(name) if isinstance(values, dict) else None
    return part if isinstance(part, dict) else {}


def is_step(line: dict) -> bool:
    return line.get("kind") == "step" and all(number(line.get(name)) is not None for name in STEP_NUMBERS)


def is_epoch(line: dict) -> bool:
    return line.get("kind") == "epoch" and number(line.get("epoch")) is not None


def is_event(line: dict) -> bool:
    return line.get("kind") in EVENTS


def merge_rests(events: Iterable[dict]) -> list[dict]:
    """A device that is hot rests after each step: rests in a row become one, with their `count`, the sum of their
    seconds and the highest temperature."""
    merged: list[dict] = []
    for event in events:
        last = merged[-1] if merged else {}
        if event["kind"] == last.get("kind") == "rest":
            merged[-1] = _joined(last, event)
        else:
            merged.append(event)
    return merged


def _joined(first: dict, second: dict) -> dict:
    temperatures = [number(event.get("temperature_c")) for event in (first, second)]
    return {
        **second,
        "count": first.get("count", 1) + second.get("count", 1),
        "seconds": (number(first.get("seconds")) or 0) + (number(second.get("seconds")) or 0),
        "temperature_c": max((value for value in temperatures if value is not None), default=None),
        "is_power_short": bool(first.get("is_power_short") or second.get("is_power_short")),
    }


def describe_event(event: dict) -> str:
    """One sentence without its end."""
    match event["kind"]:
        case "skipped":
            return f"skipped: loss or gradient {event.get('reason', 'not finite')}"
        case "restored":
            share = number(event.get("rate_share"))
            rate = "" if share is None else f" with {share:g} of the learning rate"
            return f"back to the best adapter{rate}: {event.get('reason', 'no reason given')}"
        case "rest":
            return _describe_rest(event)
        case _:
            attainable, budget = (number(event.get(name)) for name in ("attainable_bytes", "budget_bytes"))
            left = "" if attainable is None else f": {attainable / MIB:.1f} MiB can be had"
            going_on = "" if budget is None else f"; going on within {budget / MIB:.1f} MiB"
            return f"memory has become scarce{left}{going_on}"


def _describe_rest(event: dict) -> str:
    count, temperature = event.get("count", 1), number(event.get("temperature_c"))
    times = "" if count == 1 else f" in {count} rests"
    why = [] if temperature is None else [f"{temperature:.1f} °C"]
    why += ["power is short"] if event.get("is_power_short") else []
    return f"rested {number(event.get('seconds')) or 0:.1f} s{times}" + (f": {', '.join(why)}" if why else "")


def format_time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

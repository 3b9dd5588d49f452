"""Puts into words what happened to a run besides steps and epochs."""

from collections.abc import Iterable
from dataclasses import dataclass

from edge_s2a.run.schema import Event, PressureLine, RestLine, RestoredLine, SkippedLine
from edge_s2a.sizes import MIB


@dataclass(frozen=True)
class Rests(RestLine):
    """Rests in a row, as one event: the sum of their seconds and the highest temperature."""

    count: int


def merge_rests(events: Iterable[Event]) -> list[Event]:
    """Makes one event of rests in a row: a device that is hot rests after every step."""
    merged: list[Event] = []
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(last, RestLine) and isinstance(event, RestLine):
            merged[-1] = _joined(last, event)
        else:
            merged.append(event)
    return merged


def _joined(first: RestLine, second: RestLine) -> Rests:
    temperatures = [value for value in (first.temperature_c, second.temperature_c) if value is not None]
    return Rests(
        epoch=second.epoch,
        step=second.step,
        seconds=(first.seconds or 0) + (second.seconds or 0),
        temperature_c=max(temperatures, default=None),
        is_power_short=first.is_power_short or second.is_power_short,
        count=count_of(first) + count_of(second),
    )


def count_of(rest: RestLine) -> int:
    return rest.count if isinstance(rest, Rests) else 1


def describe_event(event: Event) -> str:
    """Returns one sentence without its full stop."""
    match event:
        case SkippedLine():
            return f"skipped: loss or gradient {event.reason or 'not finite'}"
        case RestoredLine():
            rate = "" if event.rate_share is None else f" with {event.rate_share:g} of the learning rate"
            return f"back to the best adapter{rate}: {event.reason or 'no reason given'}"
        case RestLine():
            return _describe_rest(event)
        case PressureLine():
            attainable, budget = event.attainable_bytes, event.budget_bytes
            left = "" if attainable is None else f": {attainable / MIB:.1f} MiB can be had"
            going_on = "" if budget is None else f"; going on within {budget / MIB:.1f} MiB"
            return f"memory has become scarce{left}{going_on}"


def _describe_rest(rest: RestLine) -> str:
    count = count_of(rest)
    times = "" if count == 1 else f" in {count} rests"
    why = [] if rest.temperature_c is None else [f"{rest.temperature_c:.1f} °C"]
    why += ["power is short"] if rest.is_power_short else []
    return f"rested {rest.seconds or 0:.1f} s{times}" + (f": {', '.join(why)}" if why else "")

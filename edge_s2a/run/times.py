"""Reads and writes times as text."""

from datetime import datetime, timezone


def format_time(seconds: float) -> str:
    """Returns "1:02:03"; "2:03" for less than an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def now_utc() -> str:
    """Returns this moment as ISO 8601 text, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def seconds_since_1970(text: str | None) -> float | None:
    """Returns the moment of an ISO 8601 text; None if it is none."""
    try:
        return None if text is None else datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None

"""Puts times and sizes into words, for the terminal and the report."""

MIB = 1 << 20


def format_time(seconds: float) -> str:
    """Returns "1:02:03", or "2:03" of less than an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

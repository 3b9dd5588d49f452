"""Parses JSON that comes from a file."""

import json
from typing import Any


def parse_json(text: bytes | str) -> Any:
    """Raises ValueError for whatever is not JSON, also where it nests deeper than the parser goes."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error

"""What a fleet's programs run with."""

from collections.abc import Mapping

from tests.helpers.paths import PROJECT

FLOWER_APP = PROJECT / "deploy" / "flower"


def without_python(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables in which an interpreter finds its own packages and no others."""
    return {key: value for key, value in environment.items() if not key.startswith("PYTHON")}

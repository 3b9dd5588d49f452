"""Finds out how deep the images of a data set are: which values are black and white, by one rule for all."""

from edge_s2a.artifact.intensity import Intensity, parse_intensity
from edge_s2a.device.data.dataset import Dataset
from edge_s2a.device.data.intensity import bits_used
from edge_s2a.device.data.pixels import ranges_in
from edge_s2a.device.memory.available import parse_budget
from edge_s2a.system.memory import resident_bytes


def intensity_for(text: str, dataset: Dataset, memory_budget: int | str) -> Intensity | None:
    """The rule that the user gives, or else by the bits that the images use; None where none of those that are looked
    at has more than 8, or where only the user knows. Raises UserError for text that is no rule.

    Looks at the images before an artifact is loaded, and takes half of the memory that the budget leaves until then.
    """
    limit_bytes = (parse_budget(memory_budget) - resident_bytes()) // 2
    return parse_intensity(text) or bits_used(ranges_in(dataset, limit_bytes))


def explained(intensity: Intensity) -> str:
    return f"in images of more than 8 bits, {intensity.black:g} is black and {intensity.white:g} white"

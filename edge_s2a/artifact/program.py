"""The program: which graphs run in which order, and what passes from one to the next.

The engine's memory for a graph grows with its nodes. A backbone repeats the same block, so a block is one graph, called
once for each block with the weights of that block.
"""

import json
from collections.abc import Collection
from typing import NamedTuple

from edge_s2a.artifact.json_text import parse_json
from edge_s2a.errors import UserError

TRAINING = "training"  # loss, logits and gradients
INFERENCE = "inference"  # logits
FEATURES = "features"  # computes what these two read of an image, in artifacts that have it
TAPS = "taps"  # statistics of the backbone's blocks, and logits in artifacts that can be trained; reads the image
TO_TRAIN = (TRAINING, INFERENCE, FEATURES)
TO_INFER = (INFERENCE, FEATURES)
TO_LEARN = (TAPS,)
ALL = (*TO_TRAIN, *TO_LEARN)


class Call(NamedTuple):
    """One run of a graph: the values that it reads and makes, in the order of the graph's inputs and outputs."""

    graph: int
    inputs: list[str]
    outputs: list[str]


Program = list[Call]


def are_complete(names: Collection[str]) -> bool:
    """Whether programs of these names make an artifact: one that is trained, or one that only learns in one pass."""
    return set(names) - {FEATURES} == {TRAINING, INFERENCE, TAPS} or set(names) == {TAPS}


def to_json(programs: dict[str, Program]) -> bytes:
    """program name -> [[graph, [input, ...], [output, ...]], ...]"""
    return json.dumps(programs, separators=(",", ":")).encode()


def from_json(text: bytes, graph_count: int, where: str, names: Collection[str] = ALL) -> dict[str, Program]:
    """Inverse of `to_json`, for the programs that `names` has. Raises UserError unless the calls name graphs that exist
    and make each value once."""
    try:
        document = parse_json(text)
        if not are_complete(document):
            raise ValueError(f"programs {sorted(document)}")
        programs = {name: [Call(*row) for row in rows] for name, rows in document.items() if name in names}
        for calls in programs.values():
            if not calls or not all(isinstance(call.graph, int) and 0 <= call.graph < graph_count for call in calls):
                raise ValueError("a call of a graph that does not exist")
            made = [name for call in calls for name in call.outputs]
            if len(set(made)) != len(made) or not all(isinstance(name, str) for call in calls for name in call.inputs):
                raise ValueError("a value that is made twice, or a name that is no text")
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{where} has a malformed program ({error}); repack the model") from error
    return programs


def last_readers(calls: Program) -> dict[str, int]:
    """value -> the last call that reads it."""
    return {name: index for index, call in enumerate(calls) for name in call.inputs}

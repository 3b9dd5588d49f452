"""Lifetimes: from which node to which each buffer exists, as data of the artifact."""

import json
from collections.abc import Collection
from typing import NamedTuple

from edge_s2a.artifact.json_text import parse_json
from edge_s2a.artifact.program import ALL, are_complete
from edge_s2a.errors import UserError

KINDS = ("workspace", "saved", "weight", "segments")


class Lifetime(NamedTuple):
    """One buffer of the engine's arena, in the order of allocation.

    It is allocated before node `first` runs and freed after node `last` has run. Its size is
    `bytes_per_image * batch + bytes_constant`. kind: "saved" crosses from forward to backward, "weight"
    is a frozen weight in float32, "segments" is scratch memory that each of the engine's threads takes once,
    "workspace" is everything else.
    """

    first: int
    last: int
    bytes_per_image: int
    bytes_constant: int
    kind: str

    def size(self, batch: int) -> int:
        return self.bytes_per_image * batch + self.bytes_constant


class GraphPlan(NamedTuple):
    """What one graph puts into the arena: constants while it is loaded, buffers while it runs."""

    constant_bytes: int
    lifetimes: list[Lifetime]


def with_threads(graphs: dict[str, GraphPlan], threads: int) -> dict[str, GraphPlan]:
    """The plans of an engine with that many threads; written plans are those of one thread."""
    return {
        name: graph._replace(
            lifetimes=[
                life._replace(bytes_constant=threads * life.bytes_constant) if life.kind == "segments" else life
                for life in graph.lifetimes
            ]
        )
        for name, graph in graphs.items()
    }


def to_json(graphs: dict[str, GraphPlan]) -> bytes:
    """graph name -> {"constant_bytes", "lifetimes"}, a lifetime being one row [first, last,
    bytes_per_image, bytes_constant, index of its kind in KINDS]."""
    document = {
        name: {
            "constant_bytes": graph.constant_bytes,
            "lifetimes": [[*lifetime[:4], KINDS.index(lifetime.kind)] for lifetime in graph.lifetimes],
        }
        for name, graph in graphs.items()
    }
    return json.dumps(document, separators=(",", ":")).encode()


def lifetime_of(row: list[int]) -> Lifetime:
    first, last, bytes_per_image, bytes_constant, kind = row
    return Lifetime(first, last, bytes_per_image, bytes_constant, KINDS[kind])


def from_json(text: bytes, where: str, names: Collection[str] = ALL) -> dict[str, GraphPlan]:
    """Inverse of `to_json`, for the programs that `names` has. Raises UserError unless every row is a possible
    lifetime."""
    try:
        document = parse_json(text)
        if not are_complete(document):
            raise ValueError(f"programs {sorted(document)}")
        graphs = {
            name: GraphPlan(entry["constant_bytes"], [lifetime_of(row) for row in entry["lifetimes"]])
            for name, entry in document.items()
            if name in names
        }
        for graph in graphs.values():
            if not isinstance(graph.constant_bytes, int) or graph.constant_bytes < 0:
                raise ValueError(f"{graph.constant_bytes} bytes of constants")
            previous = 0
            for life in graph.lifetimes:
                if not previous <= life.first <= life.last or min(life[2:4]) < 0:
                    raise ValueError(f"impossible lifetime {life}")
                previous = life.first
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise UserError(f"{where} has a malformed memory plan ({error}); repack the model") from error
    return graphs

"""What the device works with once an artifact is loaded."""

from dataclasses import dataclass

from edge_s2a.artifact.archive import Artifact
from edge_s2a.device.data.collate import Collator
from edge_s2a.device.engine.base import Engine
from edge_s2a.device.memory.budget import MemoryPlan


@dataclass
class Runtime:
    """A loaded artifact that fits its memory budget."""

    artifact: Artifact
    engine: Engine
    plan: MemoryPlan
    collator: Collator

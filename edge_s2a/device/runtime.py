"""What the device works with once an artifact is loaded."""

from dataclasses import dataclass

import numpy as np

from edge_s2a.artifact.archive import Artifact
from edge_s2a.device.data.collate import Collator
from edge_s2a.device.engine.base import Engine, Inputs
from edge_s2a.device.engine.batches import logits_of
from edge_s2a.device.memory.budget import MemoryPlan


@dataclass
class Runtime:
    """A loaded artifact that fits its memory budget."""

    artifact: Artifact
    engine: Engine
    plan: MemoryPlan
    collator: Collator

    def logits(self, inputs: Inputs) -> np.ndarray:
        """float32 (batch, classes) of a micro-batch, with the adapter as it is now."""
        return logits_of(self.engine, inputs)

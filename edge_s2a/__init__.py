"""Fine-tune pretrained vision models on edge devices inside a fixed memory budget.

`pack` runs on a workstation and needs the extra `host`; `Trainer` and `train` run on the device. What is not used is
not imported.
"""

from typing import TYPE_CHECKING, Any

from edge_s2a.version import __version__

if TYPE_CHECKING:
    from edge_s2a.device.api import Evaluation, Prediction, Trainer, TrainingStep, train
    from edge_s2a.host.api import pack

__all__ = ["Evaluation", "Prediction", "Trainer", "TrainingStep", "__version__", "pack", "train"]


def __getattr__(name: str) -> Any:
    if name == "pack":
        from edge_s2a.host.api import pack

        return pack
    if name in ("Evaluation", "Prediction", "Trainer", "TrainingStep", "train"):
        from edge_s2a.device import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

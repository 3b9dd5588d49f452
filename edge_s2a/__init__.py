"""Fine-tune pretrained vision models on edge devices inside a fixed memory budget.

`Trainer` and `train` run on the device; `pack`, `export` and everything that takes or returns torch modules run on a
workstation and need the extra `host`. A name is imported when it is first used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edge_s2a.version import __version__

# Some builds of onnxruntime send telemetry, and keep a file and a thread for it: what a device does is its owner's.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from edge_s2a.device.evaluate import Evaluation, Prediction
    from edge_s2a.device.learner import Learned, Learner
    from edge_s2a.device.trainer import Trainer
    from edge_s2a.device.training_loop import TrainingStep
    from edge_s2a.host.export.module import import_adapter, load_module, save_module_adapter
    from edge_s2a.library import export, learn, pack, train

_MODULES = {
    "edge_s2a.device.evaluate": ("Evaluation", "Prediction"),
    "edge_s2a.device.learner": ("Learned", "Learner"),
    "edge_s2a.device.trainer": ("Trainer",),
    "edge_s2a.device.training_loop": ("TrainingStep",),
    "edge_s2a.library": ("export", "learn", "pack", "train"),
    "edge_s2a.host.export.module": ("import_adapter", "load_module", "save_module_adapter"),
}
__all__ = [
    "Evaluation",
    "Learned",
    "Learner",
    "Prediction",
    "Trainer",
    "TrainingStep",
    "__version__",
    "export",
    "import_adapter",
    "learn",
    "load_module",
    "pack",
    "save_module_adapter",
    "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Fine-tune pretrained vision models on edge devices inside a fixed memory budget.

`Trainer` and `train` run on the device; `pack`, `export` and what has to do with torch run on a workstation and need
the extra `host`. What is not used is not imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edge_s2a.version import __version__

if TYPE_CHECKING:
    from edge_s2a.device.api import Evaluation, Prediction, Trainer, TrainingStep, train
    from edge_s2a.exporting import export
    from edge_s2a.host.api import pack
    from edge_s2a.host.export.module import import_adapter, load_module, save_module_adapter

_MODULES = {
    "edge_s2a.device.api": ("Evaluation", "Prediction", "Trainer", "TrainingStep", "train"),
    "edge_s2a.exporting": ("export",),
    "edge_s2a.host.api": ("pack",),
    "edge_s2a.host.export.module": ("import_adapter", "load_module", "save_module_adapter"),
}
__all__ = [
    "Evaluation", "Prediction", "Trainer", "TrainingStep", "__version__", "export", "import_adapter", "load_module",
    "pack", "save_module_adapter", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The commands as functions: each takes the fields of its class of options (edge_s2a/options.py) as arguments.

What a function needs is imported when it is called, so that importing this module loads neither torch nor the engine.
"""

from typing import TYPE_CHECKING, Any

from edge_s2a.option import accepting
from edge_s2a.options import ExportOptions, LearnOptions, PackOptions, TrainOptions

if TYPE_CHECKING:
    from edge_s2a.artifact.manifest import Manifest


@accepting(PackOptions)
def pack(options: PackOptions) -> "Manifest":
    """Packs a timm model into a training artifact, as `edge-s2a pack` does. Returns what the artifact says of itself:
    trained and total parameters, bytes saved per image for the backward pass, and more.

    Give either num_classes or labels; neither with adapter="none". Without weights and pretrained, weights are random.

    >>> import edge_s2a
    >>> manifest = edge_s2a.pack("vit_tiny_patch16_224", "vit.s2a", labels=["cat", "dog"])    # doctest: +SKIP
    >>> manifest.trainable_parameters, manifest.total_parameters                             # doctest: +SKIP

    Raises UserError for anything the user can mend.
    """
    from edge_s2a.host.pack import pack

    return pack(options)


@accepting(TrainOptions)
def train(options: TrainOptions) -> dict[str, Any]:
    """Fine-tunes on a folder of images or a .npz file, in this process, as `edge-s2a train` does. Leaves adapters,
    metrics and checkpoints in the folder `output`, and returns the summary, which is also in output/summary.json.

    Raises UserError, BudgetError, and MemoryPressure where the machine no longer has the memory that was planned: then
    call again in a fresh process with resume=True and the budget that the error names.
    """
    from edge_s2a.device.training_run import train

    return train(options)


@accepting(LearnOptions)
def learn(options: LearnOptions) -> dict[str, Any]:
    """Learns classes from a folder of images or a .npz file in one pass, in this process, as `edge-s2a learn` does, or
    forgets, renames and merges what was learned. Writes the knowledge file and returns a summary.

    Raises UserError, BudgetError, and KeyboardInterrupt when told to stop: the same call then goes on from there.
    """
    from edge_s2a.device.learning_run import learn

    return learn(options)


@accepting(ExportOptions)
def export(options: ExportOptions) -> dict[str, Any]:
    """Writes the tuned model in a format that others read, as `edge-s2a export` does, and compares what was written
    with what the runtime computes.

    Returns {"format", "output", "relative_error"}; the last is how far the logits of the artifact's golden images are
    from the runtime's, relative to the largest, or None for "peft", which only PEFT can run. Raises UserError for what
    the format cannot hold, CheckError where logits differ.
    """
    from edge_s2a.exporting import export

    return export(options)

"""Names that the graphs' inputs and outputs carry; adapter and weight inputs carry the tensors' own."""

IMAGE = "image"  # float32 (batch, 3, height, width), normalised
TARGET = "target"  # float32 (batch, classes), smoothed labels divided by the effective batch size
LOSS = "loss"  # float32 ()
LOGITS = "logits"  # float32 (batch, classes)


def gradient(name: str) -> str:
    """The output that holds the gradient of adapter tensor `name`."""
    return f"gradient:{name}"

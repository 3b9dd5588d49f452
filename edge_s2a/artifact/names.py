"""Names of the inputs and outputs of programs; adapter and weights carry their tensors' own names."""

IMAGE = "image"  # float32 (batch, 3, height, width), normalised
TARGET = "target"  # float32 (batch, classes), smoothed labels divided by the effective batch size
LOSS = "loss"  # float32 ()
LOGITS = "logits"  # float32 (batch, classes)
FEATURES = "features"  # float32 (batch, width): in exported graphs, all statistics of `Manifest.taps` side by side


GRADIENT, FEATURE, TAP = "gradient:", "feature:", "tap:"


def gradient(name: str) -> str:
    """The output that holds the gradient of adapter tensor `name`."""
    return GRADIENT + name


def feature(number: int) -> str:
    """A value that the backbone computes from the image, and the modules beside it read."""
    return f"{FEATURE}{number}"


def tap(name: str) -> str:
    """The output of the program "taps" that holds the statistic `name` of `Manifest.taps`, float32 (batch, width)."""
    return TAP + name


def is_result(name: str) -> bool:
    """Whether a value of a program is one of its outputs."""
    return name in (LOSS, LOGITS) or name.startswith((GRADIENT, FEATURE, TAP))

"""How images become a model's input."""

from collections.abc import Sequence

import numpy as np
from timm.data import resolve_data_config
from torch import nn

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.errors import UserError

CROP_MODES = ("center", "squash")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


def preprocessing_of(
    model: nn.Module,
    image_size: int | None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Preprocessing:
    """timm's data config of the model, at the model's own input size.

    image_size: for a model that takes images of any size. mean, std: of R, G and B, where the weights were trained
    with others. Raises UserError for another size than the model takes, for a deviation that is not positive, and for
    preprocessing that the device does not have.
    """
    config = resolve_data_config({}, model=model)
    height, width = config["input_size"][1:]
    stems = (getattr(model, name, None) for name in ("patch_embed", "stem"))
    grid = next((size for size in (getattr(stem, "img_size", None) for stem in stems) if isinstance(size, tuple)), None)
    if grid is not None:
        height, width = grid
        if image_size is not None and (height, width) != (image_size, image_size):
            raise UserError(f"the model takes {height}x{width} images, not {image_size}; leave out --image-size")
    elif image_size is not None:
        height, width = image_size, image_size
    crop_mode, interpolation = config["crop_mode"], config["interpolation"]
    if crop_mode not in CROP_MODES or interpolation not in INTERPOLATIONS:
        raise UserError(
            f"preprocessing with crop mode {crop_mode} and interpolation {interpolation} "
            f"is not supported; use a model whose data config says {' or '.join(CROP_MODES)}"
        )
    if std is not None and not min(std) > 0:
        raise UserError(f"--std {' '.join(map(str, std))} must be positive")
    crop_pct = config["crop_pct"]
    return Preprocessing(
        image_size=(height, width),
        resize_size=(int(np.floor(height / crop_pct)), int(np.floor(width / crop_pct))),
        crop_mode=crop_mode,
        interpolation=interpolation,
        mean=rgb(mean or config["mean"]),
        std=rgb(std or config["std"]),
    )


def rgb(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue

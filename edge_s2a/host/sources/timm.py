"""Makes the timm model to be packed."""

import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from edge_s2a.errors import UserError
from edge_s2a.host.sources.load_weights import load_weights

HEAD_STD = 0.02
COLOURS = 3  # channels of an image


def create_model(
    name: str,
    model_kwargs: dict[str, Any],
    num_classes: int,
    image_size: int | None,
    weights: Path | None,
    pretrained: bool,
    seed: int,
) -> nn.Module:
    """The timm model in evaluation mode with a new head for `num_classes`, drawn from `seed`.

    Raises UserError for a model that timm does not know or cannot create, or whose weights do not fit.
    """
    if not timm.is_model(name):
        known = timm.list_models()
        close = difflib.get_close_matches(name, known, 4) or timm.list_models("vit_tiny*")[:4]
        raise UserError(f"timm has no model {name!r}; did you mean {', '.join(close)}?")
    torch.manual_seed(seed)
    model: Any = new_model(name, model_kwargs, image_size, pretrained)  # has methods that torch's modules have not
    require_colours(name, model)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # the engine decides where memory is reused
    if weights is not None:
        load_weights(model, classifier_names(model), weights)
    model.reset_classifier(num_classes)
    draw_head(model, seed)
    return model.eval()


def new_model(name: str, model_kwargs: dict[str, Any], image_size: int | None, pretrained: bool) -> nn.Module:
    """The model as timm makes it. Transformers are told the image size; convolutional networks take any."""
    sized = [{"img_size": image_size, **model_kwargs}] if image_size is not None else []
    for keywords in [*sized, model_kwargs]:
        try:
            return timm.create_model(name, pretrained=pretrained, **keywords)
        except Exception as error:  # whatever timm, torch or the hub raise for these arguments
            if isinstance(error, TypeError) and "img_size" in str(error) and "img_size" not in model_kwargs:
                continue
            raise UserError(f"timm cannot create {name} with {keywords}: {error}; correct the options") from error
    raise AssertionError("the second attempt returns or raises")


def require_colours(name: str, model: nn.Module) -> None:
    """Raises UserError for a model of grey or multispectral images: a device reads red, green and blue."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    channels = getattr(model, "in_chans", None) or (COLOURS if first is None else first.in_channels)
    if channels != COLOURS:
        raise UserError(
            f"{name} takes images with channels: {channels}, and devices read three, red, green and blue: leave out "
            "in_chans; a grey image has three channels that are alike"
        )


def classifier_names(model: nn.Module) -> list[str]:
    """Names of the layers whose mean is the logits: linear, or convolutions of one position."""
    config: Any = model.pretrained_cfg  # timm's description of the weights, a dict
    listed = config.get("classifier") or []
    names = [listed] if isinstance(listed, str) else list(listed)
    # reset_classifier may leave out the distillation head that the model was made with.
    modules = dict(model.named_modules(remove_duplicate=False))
    names = [name for name in names if name in modules]
    for name in names:
        if not isinstance(modules[name], nn.Linear | nn.Conv2d):
            raise UserError(f"the classifier {name} of {type(model).__name__} is no linear layer; choose another model")
    if not names:
        raise UserError(f"{type(model).__name__} has no classifier; choose a classification model")
    return names


def draw_head(model: nn.Module, seed: int) -> None:
    """A small random head, so that gradients reach the backbone from the first step on."""
    generator = torch.Generator().manual_seed(seed)
    for name in classifier_names(model):
        head: Any = model.get_submodule(name)
        with torch.no_grad():
            head.weight.normal_(0, HEAD_STD, generator=generator)
            if head.bias is not None:
                head.bias.zero_()

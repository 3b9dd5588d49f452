"""Makes the timm model that is to be packed."""

import ast
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.data import resolve_data_config
from torch import nn

from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.errors import UserError

HEAD_STD = 0.02


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
    model = new_model(name, model_kwargs, image_size, pretrained)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # the engine decides where memory is used again
    if weights is not None:
        load_weights(model, weights)
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


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a safetensors or torch file. The classifier may be missing or of another size: it is replaced.

    timm's own filter resizes position embeddings to the model's image size and renames the tensors of
    other publishers of the same architecture.
    """
    state = read_weights(path)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        state = convert(state, model) if convert else state
    except Exception as error:  # the filter assumes weights of the model's family
        raise UserError(f"weights {path} do not fit the model: {error}; give the weights of this model") from error
    own = model.state_dict()
    head = tuple(f"{name}." for name in classifier_names(model))
    problems = [name for name in sorted(set(own) - set(state)) if not name.startswith(head)]
    problems += [name for name in sorted(set(state) - set(own)) if not name.startswith(head)]
    problems += [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and not name.startswith(head) and state[name].shape != own[name].shape
    ]
    if problems:
        raise UserError(
            f"weights {path} do not fit the model: {len(problems)} tensors are missing, unknown or of another "
            f"shape, first {problems[0]}; give the weights of this model, or other --model-kwargs"
        )
    model.load_state_dict({k: v for k, v in state.items() if not k.startswith(head)}, strict=False)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"cannot read weights {path}: {error}; give a safetensors or torch file") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict; save one with torch.save(model.state_dict(), ...)")
    return state


def classifier_names(model: nn.Module) -> list[str]:
    """Names of the layers whose mean is the logits: linear, or convolutions of one position."""
    names = model.pretrained_cfg.get("classifier") or []
    names = [names] if isinstance(names, str) else list(names)
    # reset_classifier may leave out the distillation head that the model was made with.
    modules = dict(model.named_modules(remove_duplicate=False))
    names = [name for name in names if name in modules]
    for name in names:
        if not isinstance(modules[name], nn.Linear | nn.Conv2d):
            raise UserError(f"the classifier {name} of {type(model).__name__} is no linear layer; choose another model")
    if not names:
        raise UserError(f"{type(model).__name__} has no classifier; choose a classification model")
    return names


def head_layers(model: nn.Module, adapter: dict[str, torch.Tensor], classes: int) -> list[str]:
    """The classifiers, if all of them have a trained weight and bias with one row a class; otherwise none."""
    names = classifier_names(model)
    tensors = [adapter.get(f"{name}.{part}") for name in names for part in ("weight", "bias")]
    return names if all(tensor is not None and len(tensor) == classes for tensor in tensors) else []


def draw_head(model: nn.Module, seed: int) -> None:
    """A small random head, so that gradients reach the backbone from the first step on."""
    generator = torch.Generator().manual_seed(seed)
    for name in classifier_names(model):
        head = model.get_submodule(name)
        with torch.no_grad():
            head.weight.normal_(0, HEAD_STD, generator=generator)
            if head.bias is not None:
                head.bias.zero_()


def preprocessing_of(
    model: nn.Module,
    image_size: int | None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Preprocessing:
    """timm's data config of the model, at its own input size; `mean` and `std` (R, G, B) where the weights were
    trained with others."""
    config = resolve_data_config({}, model=model)
    height, width = config["input_size"][1:]
    stems = (getattr(model, name, None) for name in ("patch_embed", "stem"))
    grid = next((size for size in (getattr(stem, "img_size", None) for stem in stems) if isinstance(size, tuple)), None)
    if grid is not None:
        height, width = grid
        if image_size is not None and (height, width) != (image_size, image_size):
            raise UserError(f"the model takes {height}x{width} images, not {image_size}; leave --image-size away")
    elif image_size is not None:
        height, width = image_size, image_size
    crop_mode = config["crop_mode"]
    if crop_mode not in ("center", "squash") or config["interpolation"] not in (
        "nearest", "bilinear", "bicubic", "lanczos",
    ):  # fmt: skip
        raise UserError(
            f"preprocessing with crop mode {crop_mode} and interpolation {config['interpolation']} "
            "is not supported; use a model whose data config says center or squash"
        )
    if std is not None and not min(std) > 0:
        raise UserError(f"--std {' '.join(map(str, std))} must be positive")
    resize = [int(np.floor(size / config["crop_pct"])) for size in (height, width)]
    return Preprocessing(
        (height, width), tuple(resize), crop_mode, config["interpolation"],
        tuple(map(float, mean or config["mean"])), tuple(map(float, std or config["std"])),
    )  # fmt: skip


def parse_model_kwargs(items: list[str]) -> dict[str, Any]:
    """["img_size=32", ...] -> {"img_size": 32, ...}; values are Python literals, or else strings."""
    parsed = {}
    for item in items:
        key, separator, text = item.partition("=")
        if not separator or not key.isidentifier():
            raise UserError(f"--model-kwargs {item!r} is not KEY=VALUE; write for example img_size=32")
        try:
            parsed[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            parsed[key] = text
    return parsed

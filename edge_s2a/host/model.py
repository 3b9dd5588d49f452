"""Makes the timm model that is to be packed."""

import ast
import difflib
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.data import resolve_data_config
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
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

    Raises UserError for a model that timm does not know, that is no VisionTransformer, or whose weights
    do not fit.
    """
    if not timm.is_model(name):
        known = timm.list_models()
        close = difflib.get_close_matches(name, known, 4) or timm.list_models("vit_tiny*")[:4]
        raise UserError(f"timm has no model {name!r}; did you mean {', '.join(close)}?")
    torch.manual_seed(seed)
    keywords = dict(model_kwargs)
    if image_size is not None:
        keywords.setdefault("img_size", image_size)
    try:
        model = timm.create_model(name, pretrained=pretrained, **keywords)
    except Exception as error:  # whatever timm, torch or the hub raise for these arguments
        raise UserError(f"timm cannot create {name} with {keywords}: {error}; correct the options") from error
    if not isinstance(model, VisionTransformer):
        raise UserError(
            f"{name} is a {type(model).__name__}; this version packs VisionTransformer models (vit_*, deit_*)"
        )
    if weights is not None:
        load_weights(model, weights)
    model.reset_classifier(num_classes)
    draw_head(model, seed)
    return model.eval()


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a safetensors or torch file. The classifier may be missing or of another size: it is replaced.

    timm's own filter resizes position embeddings to the model's image size and renames the tensors of
    other publishers of the same architecture.
    """
    state = read_weights(path)
    try:
        state = checkpoint_filter_fn(state, model)
    except Exception as error:  # the filter assumes weights of a vision transformer
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
    names = model.pretrained_cfg["classifier"]
    return [names] if isinstance(names, str) else list(names)


def draw_head(model: nn.Module, seed: int) -> None:
    """A small random head, so that gradients reach the backbone from the first step on."""
    generator = torch.Generator().manual_seed(seed)
    for name in classifier_names(model):
        head = model.get_submodule(name)
        with torch.no_grad():
            head.weight.normal_(0, HEAD_STD, generator=generator)
            head.bias.zero_()


def preprocessing_of(model: nn.Module, image_size: int | None) -> Preprocessing:
    """timm's data config of the model, at its own input size."""
    config = resolve_data_config({}, model=model)
    height, width = config["input_size"][1:]
    if isinstance(grid := getattr(model.patch_embed, "img_size", None), tuple):
        height, width = grid
    if image_size is not None and (height, width) != (image_size, image_size):
        raise UserError(f"the model takes {height}x{width} images, not {image_size}; leave --image-size away")
    crop_mode = config["crop_mode"]
    if crop_mode not in ("center", "squash") or config["interpolation"] not in (
        "nearest", "bilinear", "bicubic", "lanczos",
    ):  # fmt: skip
        raise UserError(
            f"preprocessing with crop mode {crop_mode} and interpolation {config['interpolation']} "
            "is not supported; use a model whose data config says center or squash"
        )
    resize = [int(np.floor(size / config["crop_pct"])) for size in (height, width)]
    return Preprocessing(
        (height, width), tuple(resize), crop_mode, config["interpolation"],
        tuple(map(float, config["mean"])), tuple(map(float, config["std"])),
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

"""Structural modules: an identity at first, only their own parameters, and no more saved than they need."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from edge_s2a.errors import UserError
from edge_s2a.host.adapters.blocks import blocks_of
from edge_s2a.host.adapters.inject import inject
from edge_s2a.host.adapters.registry import parse_adapter
from edge_s2a.host.sources.batch_norm_fold import fold_batch_norms
from edge_s2a.host.sources.timm import classifier_names, create_model
from edge_s2a.host.trace.capture import observe_saved_tensors
from tests.helpers.artifacts import SMALL_VIT
from tests.helpers.models import MODELS

IMAGE_SHAPE = (3, 64, 64)
CLASSES = 3
KINDS = [
    "bias", "prompt", "side", "lowrank", "head", "s2a", "bias+prompt+side+lowrank",
    "prompt:rank=3+side:pooling=3+lowrank:rank=1",
]  # fmt: skip


def model_of(key):
    name, kwargs, _, _ = MODELS[key]
    model = create_model(name, kwargs, CLASSES, None, None, False, seed=0)
    with torch.no_grad():
        for module in model.modules():  # timm starts the last norm of a residual branch at zero
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(0.9)
    fold_batch_norms(model, IMAGE_SHAPE)
    return model


def features_of(model, image):
    """What the backbone gives its classifier."""
    seen = []
    head = model.get_submodule(classifier_names(model)[0])
    handle = head.register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        logits = model(image)
    handle.remove()
    return seen[0], logits


@pytest.mark.parametrize("model_key", MODELS)
def test_blocks_are_found_in_order(model_key):
    blocks = blocks_of(model_of(model_key), IMAGE_SHAPE)
    assert len(blocks) == MODELS[model_key][2]
    assert {block.layout for block in blocks} == {MODELS[model_key][3]}
    areas = [block.grid[0] * block.grid[1] for block in blocks]
    assert areas == sorted(areas, reverse=True)


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("model_key", MODELS)
def test_adapted_model_computes_at_first_what_the_backbone_does(model_key, kinds):
    model = model_of(model_key)
    image = torch.randn(2, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(0))
    features, logits = features_of(model, image)
    inject(model, parse_adapter(kinds), IMAGE_SHAPE, CLASSES, seed=0)
    adapted_features, adapted_logits = features_of(model, image)
    # Sums with zeros are exact; a new bias of zeros may choose another kernel of torch.
    torch.testing.assert_close(adapted_features, features, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(adapted_logits, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("model_key", MODELS)
def test_each_module_trains_its_own_parameters_and_the_head(model_key, kinds):
    model = model_of(model_key)
    before = {name for name, _ in model.named_parameters()}
    adapter = inject(model, parse_adapter(kinds), IMAGE_SHAPE, CLASSES, seed=0)
    heads = tuple(f"{name}." for name in classifier_names(model))
    for name in adapter:
        belongs = {
            "bias": name.endswith("bias") and (name in before or name.rsplit(".", 1)[0] + ".weight" in before),
            "prompt": name.startswith("prompt."),
            "side": name.startswith("side."),
            "lowrank": name.startswith("lowrank."),
            "head": False,  # but for the classifier
        }
        chosen = [part.partition(":")[0] for part in parse_adapter(kinds)]
        assert name.startswith(heads) or any(belongs[kind] for kind in chosen), name
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name in adapter)
    # Each has an influence: with a random adapter, every gradient is finite and most are not zero.
    with torch.no_grad():
        for value in adapter.values():
            value.add_(torch.randn_like(value) * 0.05)
    logits = functional_call(model, adapter, (torch.randn(2, *IMAGE_SHAPE),))
    gradients = torch.autograd.grad(logits.square().sum(), list(adapter.values()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert sum(bool(gradient.any()) for gradient in gradients) > 0.9 * len(gradients)


def test_bias_where_the_backbone_has_none():
    model = model_of("vit without bias")
    assert model.blocks[0].attn.qkv.bias is None
    adapter = inject(model, ["bias"], IMAGE_SHAPE, CLASSES, seed=0)
    assert adapter["blocks.0.attn.qkv.bias"].shape == (3 * SMALL_VIT["embed_dim"],)


def test_bias_of_a_batch_norm_stands_for_the_convolution_before_it():
    model = model_of("resnet")
    adapter = inject(model, ["bias"], IMAGE_SHAPE, CLASSES, seed=0)
    assert model.layer1[0].conv1.bias is None
    assert "layer1.0.bn1.bias" in adapter


@pytest.mark.parametrize("model_key", MODELS)
def test_side_alone_saves_nothing_of_the_backbone(model_key):
    """At most the three inputs of each step's convolutions, of reduced width, and the classifier's."""
    model = model_of(model_key)
    adapter = inject(model, ["side"], IMAGE_SHAPE, CLASSES, seed=0)
    saved = observe_saved_tensors(model, adapter, IMAGE_SHAPE)
    steps = list(model.side.steps)
    expected = {step.width * step.grid[0] * step.grid[1] for step in steps}
    batched = [entry for entry in saved if entry.values_per_image]
    large = [entry for entry in batched if entry.values_per_image > 2048]
    assert {entry.values_per_image for entry in large} <= expected
    assert len(large) <= 3 * len(steps)
    limit = 3 * sum(step.width * step.grid[0] * step.grid[1] for step in steps)
    head = model.get_submodule(classifier_names(model)[0]).weight[0].numel()
    assert sum(entry.values_per_image for entry in batched) <= limit + head + 4 * steps[-1].width


def test_prompt_saves_nothing():
    """Beside what the backbone's own gradient needs, which bias needs too."""
    saved = {}
    for kinds in ("bias", "bias+prompt"):
        model = model_of("vit")
        adapter = inject(model, parse_adapter(kinds), IMAGE_SHAPE, CLASSES, seed=0)
        entries = observe_saved_tensors(model, adapter, IMAGE_SHAPE)
        saved[kinds] = sum(entry.values_per_image for entry in entries)
    assert saved["bias+prompt"] == saved["bias"]


def test_lowrank_saves_only_its_reduced_output():
    """Its input is read from the norm's code: what it adds is `rank` values a token for each branch."""
    saved = {}
    for kinds in ("bias", "bias+lowrank"):
        model = model_of("vit")
        adapter = inject(model, parse_adapter(kinds), IMAGE_SHAPE, CLASSES, seed=0)
        entries = observe_saved_tensors(model, adapter, IMAGE_SHAPE)
        saved[kinds] = sum(entry.values_per_image for entry in entries)
    tokens = 64 + 1
    assert saved["bias+lowrank"] - saved["bias"] == 2 * 2 * tokens * 2  # blocks, branches, tokens, rank


def shapes_of(model_key, kinds):
    adapter = inject(model_of(model_key), parse_adapter(kinds), IMAGE_SHAPE, CLASSES, seed=0)
    return {name: tuple(value.shape) for name, value in adapter.items()}


@pytest.mark.parametrize("model_key", ["vit", "swin", "mobilenetv2"])
def test_options_change_shapes(model_key):
    shapes = shapes_of(model_key, "prompt:rank=3+side:pooling=4+lowrank:rank=5")
    assert {shape[0] for name, shape in shapes.items() if name.startswith("prompt.") and "channel" in name} == {3}
    ranks = {shape[name.endswith("up")] for name, shape in shapes.items() if name.startswith("lowrank.")}
    assert ranks == {5}
    channels = blocks_of(model_of(model_key), IMAGE_SHAPE)[-1].channels
    assert shapes["side.classifier.weight"] == (CLASSES, max(4, channels // 4))


@pytest.mark.parametrize(("model_key", "rank"), [("vit", 2), ("mobilenetv2", 4)])
def test_default_options_are_those_of_the_kind_by_name(model_key, rank):
    text = f"prompt:rank=2+side:pooling=8+lowrank:rank={rank}"
    assert shapes_of(model_key, text) == shapes_of(model_key, "prompt+side+lowrank")


@pytest.mark.parametrize("model_key", MODELS)
def test_head_alone_trains_the_classifier_and_saves_its_input(model_key):
    model = model_of(model_key)
    adapter = inject(model, ["head"], IMAGE_SHAPE, CLASSES, seed=0)
    (head,) = classifier_names(model)
    assert set(adapter) == {f"{head}.weight", f"{head}.bias"}
    saved = [entry.values_per_image for entry in observe_saved_tensors(model, adapter, IMAGE_SHAPE)]
    assert sum(saved) <= model.get_submodule(head).weight[0].numel() + CLASSES


@pytest.mark.parametrize("kinds", ["bias", "head"])
def test_kinds_that_read_no_blocks_need_none(kinds):
    model = create_model("vgg11", {}, CLASSES, None, None, False, seed=0)
    assert inject(model, [kinds], (3, 224, 224), CLASSES, seed=0)


def test_a_model_without_blocks_is_refused_for_modules_that_need_them():
    model = create_model("vgg11", {}, CLASSES, None, None, False, seed=0)
    with pytest.raises(UserError, match=r"no sequence of blocks; use --adapter bias"):
        inject(model, ["prompt"], (3, 224, 224), CLASSES, seed=0)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_035", "densenet121", "regnety_002", "levit_128s"])
def test_folding_batch_norm_changes_nothing(name):
    """float32 in another order."""
    model = create_model(name, {}, CLASSES, None, None, False, seed=0)
    generator = torch.Generator().manual_seed(0)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.running_mean.normal_(0, 0.1, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(0, 0.1, generator=generator)
    size = 224 if name == "levit_128s" else 64
    image = torch.randn(2, 3, size, size, generator=generator)
    with torch.no_grad():
        before = model(image)
        fold_batch_norms(model, (3, size, size))
        torch.testing.assert_close(model(image), before, rtol=1e-4, atol=1e-4 * before.abs().max().item())
    if name != "levit_128s":  # its norms follow a linear layer and a flattening
        folded = sum(bool((norm.weight == 1).all()) for norm in norms)
        assert folded == len(norms) if name != "densenet121" else folded > len(norms) / 3

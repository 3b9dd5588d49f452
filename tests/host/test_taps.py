"""Taps: statistics of blocks, of the adapted model, by the program "taps"; and artifacts that have nothing else."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from edge_s2a.artifact import tensors
from edge_s2a.artifact.archive import ADAPTER, GOLDEN, PROGRAM, WEIGHTS, Artifact, digests, write_archive
from edge_s2a.artifact.program import TO_LEARN, from_json, to_json
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.device.engine.onnxruntime import OnnxRuntimeEngine
from edge_s2a.errors import UserError
from edge_s2a.host.adapters.blocks import blocks_of, layout_of_map
from edge_s2a.host.sources.timm import create_model
from edge_s2a.host.taps import choose, find_taps, tapping
from edge_s2a.plan.arena import smallest_arena_bytes
from edge_s2a.plan.verify import verified_plans
from tests.helpers.artifacts import NO_ADAPTER, SMALL_VIT, adapt_and_pack, options_of, pack
from tests.helpers.commands import assert_refused, run_command, run_host_here
from tests.helpers.images import write_images
from tests.helpers.models import MODELS

VIT = {**SMALL_VIT, "img_size": 64, "depth": 6}
SEED = 3

# what is packed -> (options, tapped modules in order, layout of their outputs, prefix tokens, whether there is a class
# token). By default these are the last half of the blocks.
CASES = {
    "vit": ({"model_kwargs": VIT, **NO_ADAPTER}, ["blocks.3", "blocks.4", "blocks.5"], "tokens", 1, True),
    "vit, adapted": (
        {"model_kwargs": VIT, "adapter": "bias+prompt+lowrank"},
        ["blocks.3", "blocks.4", "blocks.5"], "tokens", 1, True,
    ),
    "vit of registers": (
        {"model": "vit_wee_patch16_reg1_gap_256", "model_kwargs": VIT, **NO_ADAPTER},
        ["blocks.3", "blocks.4", "blocks.5"], "tokens", 1, False,
    ),
    "deit, distilled": (
        {"model": "deit_tiny_distilled_patch16_224", "model_kwargs": VIT, **NO_ADAPTER},
        ["blocks.3", "blocks.4", "blocks.5"], "tokens", 2, True,
    ),
    "swin": (
        {"model": MODELS["swin"][0], "model_kwargs": MODELS["swin"][1], **NO_ADAPTER},
        ["layers.1.blocks.0", "layers.1.blocks.1"], "NHWC", 0, False,
    ),
    "convnext": (
        {"model": MODELS["convnext"][0], "model_kwargs": MODELS["convnext"][1], "image_size": 64, **NO_ADAPTER},
        ["stages.2.blocks.0", "stages.2.blocks.1", "stages.3.blocks.0"], "NCHW", 0, False,
    ),
    "resnet": (
        {"model": "resnet18", "model_kwargs": {"layers": (1, 1, 1, 1)}, "image_size": 64, **NO_ADAPTER},
        ["layer3.0", "layer4.0"], "NCHW", 0, False,
    ),
    "mobilenetv2": (
        {"model": "mobilenetv2_035", "model_kwargs": {"depth_multiplier": 0.5}, "image_size": 64, **NO_ADAPTER},
        ["blocks.3.1", "blocks.4.0", "blocks.4.1", "blocks.5.0", "blocks.5.1", "blocks.6.0"], "NCHW", 0, False,
    ),
    "no blocks": (
        {"model": "dla46_c", "model_kwargs": {}, "image_size": 64, **NO_ADAPTER}, ["fc"], "vector", 0, False,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=[(case, bits) for case in CASES for bits in ("int8", "fp32")], ids="-".join)
def packed(request, tmp_path_factory):
    """(case, adapted model with random values in its adapter, artifact)."""
    case, weight_format = request.param
    path = tmp_path_factory.mktemp("taps") / "model.s2a"
    adapted = adapt_and_pack(path, options_of(weight_format=weight_format, **CASES[case][0]))
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for value in adapted.adapter.values():
            value.add_(torch.randn(value.shape, generator=generator) * 0.1)
    return case, adapted, Artifact(path)


def engine_of(artifact, adapter, images):
    """In the smallest arena that is planned for so many images, with the adapter's values."""
    arena_bytes = smallest_arena_bytes(verified_plans(artifact, TO_LEARN), images)
    engine = OnnxRuntimeEngine(artifact, EngineSettings(threads=1), TO_LEARN, arena_bytes=arena_bytes)
    for name, array in engine.adapter.items():
        array[...] = adapter[name].detach().numpy()
    return engine


def images_for(adapted, count):
    return torch.randn(count, 3, *adapted.image_shape[1:], generator=torch.Generator().manual_seed(SEED + count))


def outputs_of(adapted, image, names, layout):
    """float64 (batch, positions, channels) of what each named module returns, or (batch, channels) that it reads; and
    the logits."""
    found = {}

    def keep(name, value):
        value = value.double()
        if layout == "vector":
            found[name] = value.flatten(1)
        else:
            channels_last = value.permute(0, 2, 3, 1) if layout == "NCHW" else value
            found[name] = channels_last.reshape(len(value), -1, channels_last.shape[-1])

    handles = []
    for name in names:
        module = adapted.model.get_submodule(name)
        if layout == "vector":
            handles.append(module.register_forward_pre_hook(lambda _module, inputs, name=name: keep(name, inputs[0])))
        else:
            handles.append(module.register_forward_hook(lambda _module, _inputs, output, name=name: keep(name, output)))
    with torch.no_grad():
        logits = functional_call(adapted.model, adapted.adapter, (image,))
    for handle in handles:
        handle.remove()
    return found, logits


def expected_statistics(values, layout, prefix_tokens, has_class):
    """name -> float64 (batch, channels), of values (batch, positions, channels). The deviation's two passes lose
    nothing where it is small beside the mean."""
    if layout == "vector":
        return {"input": values}
    if layout != "NCHW":
        centred = values - values.mean(2, keepdim=True)
        values = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()
    first, values = values[:, 0], values[:, prefix_tokens:]
    mean = values.mean(1)
    statistics = {"class": first} if has_class else {"mean": mean}
    if layout == "NCHW":
        statistics["maximum"] = values.max(1).values
    statistics["deviation"] = (values - mean[:, None]).square().mean(1).sqrt()
    return statistics


@pytest.mark.parametrize("count", [1, 3])
def test_every_statistic_is_that_of_torch(packed, count):
    """Of the adapted model. float32 in another order, through some ten layers: 1e-5 of the largest value. The engine
    computes the variance as the mean of squares less the square of the mean, which costs rounding of the former:
    squares of deviations are compared, relative to it."""
    case, adapted, artifact = packed
    _, names, layout, prefix_tokens, has_class = CASES[case]
    image = images_for(adapted, count)
    measured = engine_of(artifact, adapted.adapter, count).taps(image.numpy())
    outputs, logits = outputs_of(adapted, image, names, layout)
    expected = {
        f"{name}:{statistic}": (value.numpy(), outputs[name].square().mean(1).numpy())
        for name in names
        for statistic, value in expected_statistics(outputs[name], layout, prefix_tokens, has_class).items()
    }
    assert artifact.manifest.taps == {name: value.shape[1] for name, (value, _) in expected.items()}
    assert measured.features.shape == (count, artifact.manifest.tap_count)
    parts = np.split(measured.features, np.cumsum(list(artifact.manifest.taps.values()))[:-1], 1)
    for part, (name, (value, squares)) in zip(parts, expected.items(), strict=True):
        assert part.dtype == np.float32
        if name.endswith(":deviation"):
            # Of a normalised vector the mean square is 1.
            unit = np.maximum(squares, squares.mean()) if layout == "NCHW" else 1
            np.testing.assert_array_less(np.abs(part.astype(float) ** 2 - value**2), 1e-5 * unit + 2e-12, err_msg=name)
        else:
            np.testing.assert_allclose(part, value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name)
    if artifact.manifest.can_train:
        np.testing.assert_allclose(measured.logits, logits.numpy(), rtol=1e-4, atol=1e-4)
    else:
        assert measured.logits.shape == (count, 0)


# -- which blocks --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vit_blocks():
    model = create_model("vit_tiny_patch16_224", VIT, 1, None, None, False, 0)
    return blocks_of(model, (3, 64, 64))


@pytest.fixture(scope="module")
def cnn_blocks():
    model = create_model("resnet18", {}, 1, None, None, False, 0)
    return blocks_of(model, (3, 64, 64))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("auto", [4, 5, 6]), ("all", [1, 2, 3, 4, 5, 6]), ("last:1", [6]), ("last:2", [5, 6]),
        ("last:99", [1, 2, 3, 4, 5, 6]), ("3", [3]), ("2,4,6", [2, 4, 6]), ("6,2,2", [2, 6]),
    ],
)  # fmt: skip
def test_blocks_are_chosen_in_the_order_in_which_they_run(vit_blocks, text, numbers):
    assert [block.name for block in choose(vit_blocks, text)] == [f"blocks.{number - 1}" for number in numbers]


def test_the_default_is_the_last_half(cnn_blocks):
    assert choose(cnn_blocks, "auto") == cnn_blocks[4:]


@pytest.mark.parametrize(
    "text",
    ["", "0", "01", "-1", "+1", "1-3", "2,", ",2", "2 ,4", "two", "last", "last:", "last:0", "last:-1", "²", "2.0"],
)
def test_other_texts_are_refused(vit_blocks, text):
    with pytest.raises(
        UserError, match=r"--taps .*: write auto, all, last:N, or numbers .*; the model has blocks 1 to 6"
    ):
        choose(vit_blocks, text)


@pytest.mark.parametrize("text", ["7", "1,7", "9999"])
def test_a_block_that_does_not_exist_is_refused(vit_blocks, text):
    number = text.rpartition(",")[2]
    with pytest.raises(UserError, match=f"--taps {text}: there is no block {number}; the model has blocks 1 to 6"):
        choose(vit_blocks, text)


class Chain(nn.Module):
    """Two linear blocks on `tokens` vectors of four channels; what a block returns is up to `wrap`."""

    class Block(nn.Module):
        def __init__(self, wrap):
            super().__init__()
            self.linear, self.wrap = nn.Linear(4, 4), wrap

        def forward(self, x):
            return self.wrap(self.linear(x[0] if isinstance(x, tuple) else x))

    def __init__(self, tokens, wrap):
        super().__init__()
        self.tokens = tokens
        self.blocks = nn.ModuleList([self.Block(wrap), self.Block(lambda x: x)])
        self.head = nn.Linear(4, 2)
        self.pretrained_cfg = {"classifier": "head"}

    def forward(self, image):
        x = image.flatten(1)[:, : 4 * self.tokens].reshape(-1, self.tokens, 4)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: create_model("dla46_c", {}, 1, None, None, False, 0), "DLA has no sequence of blocks"),
        (lambda: Chain(7, lambda x: x), "the 7 tokens of block blocks.0 form no grid"),
        (lambda: Chain(9, lambda x: (x, x)), "block blocks.0 of Chain does not return one map or its tokens"),
        (lambda: Chain(9, lambda x: x[None]), "block blocks.0 of Chain does not return one map or its tokens"),
    ],
)  # fmt: skip
def test_where_no_block_can_be_tapped_the_classifiers_input_is(make, why):
    model = make()
    (tap,) = find_taps(model, (3, 64, 64), "auto")
    assert (tap.module, tap.layout) == (model.get_submodule(model.pretrained_cfg["classifier"]), "vector")
    with pytest.raises(UserError, match=rf"--taps 2: {why}; leave --taps out"):
        find_taps(model, (3, 64, 64), "2")


def test_of_tokens_that_a_classifier_reads_the_mean_is_tapped():
    model, image = Chain(7, lambda x: x), torch.randn(2, 3, 8, 8)
    with torch.no_grad(), tapping(find_taps(model, (3, 8, 8), "auto")) as found:
        model(image)
        tokens = model.blocks[1](model.blocks[0](image.flatten(1)[:, :28].reshape(2, 7, 4)))
    torch.testing.assert_close(found, {"head:input": tokens.mean(1)})


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((28, 28, 64), "NHWC"), ((64, 28, 28), "NCHW"), ((7, 7, 7), "NCHW"), ((5, 28, 20), "NCHW")],
)
def test_channels_are_where_height_and_width_are_not(shape, layout):
    """Whatever a model says of its output: TinyViT's blocks hold channels last, its output does not."""
    model = nn.Module()
    model.output_fmt = "NCHW"
    assert layout_of_map(model, shape, (3, 224, 224)) == layout


def test_pack_says_what_is_wrong_with_taps(tmp_path):
    kwargs = [f"{key}={value}" for key, value in VIT.items()]
    command = ["pack", "vit_tiny_patch16_224", "--model-kwargs", *kwargs, "--output", tmp_path / "model.s2a"]
    for words, message in (
        (["--adapter", "none", "--taps", "7"], "--taps 7: there is no block 7; the model has blocks 1 to 6"),
        (["--num-classes", 3, "--taps", "x"], "--taps x: write auto, all, last:N, or numbers"),
        (["--adapter", "none", "--num-classes", 3], "--adapter none has no head, and learns its classes"),
        ([], "the number of classes is missing"),
        (["--adapter", "none+bias", "--num-classes", 3], "no adapter 'none'"),
    ):
        assert_refused(run_host_here(*command, *words), 2, message)
        assert not (tmp_path / "model.s2a").exists()


# -- artifacts without an adapter ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def forward_only(tmp_path_factory):
    """Tapped at its second and third block of six."""
    return pack(tmp_path_factory.mktemp("none") / "none.s2a", model_kwargs=VIT, taps="2,3", **NO_ADAPTER)


def test_an_artifact_without_adapter_has_what_taps_read_and_nothing_else(forward_only):
    artifact = Artifact(forward_only)
    manifest = artifact.manifest
    programs = from_json(artifact.read(PROGRAM), artifact.graph_count, "")
    assert list(programs) == ["taps"]
    assert {call.graph for call in programs["taps"]} == set(range(artifact.graph_count))
    weights, _ = tensors.decode(artifact.read(WEIGHTS), "weights")
    assert set(weights) <= {name for call in programs["taps"] for name in call.inputs}
    parts = {".".join(name.split(".")[: 2 if name.startswith("blocks") else 1]) for name in weights}
    assert parts == {"cls_token", "pos_embed", "patch_embed", "blocks.0", "blocks.1", "blocks.2"}
    assert tensors.decode(artifact.read(ADAPTER), "adapter") == ({}, {})
    assert not manifest.can_train
    assert (manifest.adapter_shapes, manifest.head, manifest.features) == ({}, [], {})
    assert (manifest.num_classes, manifest.labels, manifest.saved_bytes_per_image) == (0, None, 0)
    assert [name.partition(":")[0] for name in manifest.taps] == ["blocks.1"] * 2 + ["blocks.2"] * 2


@pytest.mark.parametrize("adapter", ["head", "bias", "prompt", "side", "lowrank"])
def test_it_is_the_smallest_artifact(tmp_path, adapter):
    other = pack(tmp_path / "other.s2a", model_kwargs=VIT, adapter=adapter)
    assert pack(tmp_path / "none.s2a", model_kwargs=VIT, **NO_ADAPTER).stat().st_size < other.stat().st_size


def test_it_passes_its_check(forward_only):
    done = run_host_here("check", forward_only, "--json")
    assert done.returncode == 0, done.stderr
    assert list(done.json["errors"]) == ["taps"]
    assert done.json["max_relative_error"] < 1e-5


def test_it_is_shown_as_what_it_is(forward_only):
    lines = dict(line.split(maxsplit=1) for line in run_host_here("inspect", forward_only).stdout.splitlines())
    assert lines["adapter"] == "none"
    assert lines["taps"] == "2 blocks, 192 numbers per image"
    assert "saved" not in lines
    shown = run_host_here("inspect", forward_only, "--json").json
    assert (shown["adapter"], shown["num_classes"], shown["trainable_parameters"]) == ("none", 0, 0)
    assert shown["taps"] == Artifact(forward_only).manifest.taps
    assert shown["tap_numbers_per_image"] == 192


def test_a_model_without_blocks_is_shown_with_what_is_tapped(tmp_path):
    path = pack(tmp_path / "dla.s2a", **CASES["no blocks"][0])
    assert "taps              input of fc, 256 numbers per image\n" in run_host_here("inspect", path).stdout


def test_it_cannot_be_trained(forward_only, small_artifact, tmp_path):
    """One message, and exit code 2, wherever an adapter is needed."""
    from edge_s2a.device.trainer import Trainer

    data = write_images(tmp_path / "data", 2, seed=0)
    options = ["--epochs", 1, "--threads", 1, "--memory-budget", "400MiB"]
    done = run_command("train", small_artifact, "--data", data, "--output", tmp_path / "run", *options)
    assert done.returncode == 0, done.stderr
    adapter = tmp_path / "run" / "adapter.safetensors"
    for words in (
        ["train", forward_only, "--data", data, "--output", tmp_path / "other", *options],
        ["eval", forward_only, "--adapter", adapter, "--data", data],
        ["predict", forward_only, data, "--adapter", adapter],
        ["export", forward_only, "--adapter", adapter, "--format", "onnx", "--output", tmp_path / "x.onnx"],
    ):
        assert_refused(run_command(*words), 2, "has no adapter, it only learns in one pass")
    assert not (tmp_path / "x.onnx").exists()
    with pytest.raises(UserError, match="has no adapter, it only learns in one pass"):
        Trainer(forward_only, batch_size=1, threads=1)


# -- what is written wrongly ---------------------------------------------------------------------------


def with_member(path, output, name, data):
    """The artifact with another member, and right digests."""
    artifact = Artifact(path)
    members = {member: artifact.read(member) for member in artifact.manifest.members} | {name: data}
    write_archive(output, dataclasses.replace(artifact.manifest, members=digests(members)), members)
    return output


def test_check_finds_a_tap_that_torch_computes_otherwise(forward_only, tmp_path):
    golden, _ = tensors.decode(Artifact(forward_only).read(GOLDEN), "golden")
    wrong = golden | {"tap:blocks.2:deviation": golden["tap:blocks.2:deviation"] * np.float32(1.01)}
    path = with_member(forward_only, tmp_path / "wrong.s2a", GOLDEN, tensors.encode(wrong))
    done = run_host_here("check", path)
    assert done.returncode == 4
    assert "deviates in taps" in done.stderr


@pytest.mark.parametrize("change", ["missing", "image missing", "shape", "image shape"])
def test_golden_taps_that_are_not_there_are_a_clear_error(forward_only, tmp_path, change):
    golden, _ = tensors.decode(Artifact(forward_only).read(GOLDEN), "golden")
    name = "image" if "image" in change else "tap:blocks.1:class"
    if change.endswith("missing"):
        del golden[name]
    else:
        golden[name] = golden[name][..., :1].copy() if name == "image" else golden[name].reshape(-1, 2)
    path = with_member(forward_only, tmp_path / "wrong.s2a", GOLDEN, tensors.encode(golden))
    assert_refused(run_host_here("check", path), 2, "the golden step of", "repack the model")


@pytest.mark.parametrize("kept", [{"training", "inference"}, {"taps"}, {"training", "inference", "taps"}])
def test_programs_that_the_manifest_does_not_tell_of_are_refused(small_artifact, forward_only, tmp_path, kept):
    """Whichever is right: of the artifact that trains some are missing, or that which does not train has all."""
    trains = Artifact(small_artifact)
    programs = from_json(trains.read(PROGRAM), trains.graph_count, "")
    base = forward_only if len(kept) == 3 else small_artifact
    text = to_json({name: program for name, program in programs.items() if name in kept})
    path = with_member(base, tmp_path / "wrong.s2a", PROGRAM, text)
    with pytest.raises(UserError, match="repack the model"):
        OnnxRuntimeEngine(Artifact(path), EngineSettings(threads=1))


def test_a_result_that_no_call_makes_is_refused(forward_only, tmp_path):
    """Or else whatever was in memory would be taken for it."""
    artifact = Artifact(forward_only)
    text = artifact.read(PROGRAM).replace(b'"tap:blocks.2:class"', b'"tap:blocks.2:Class"')
    path = with_member(forward_only, tmp_path / "wrong.s2a", PROGRAM, text)
    with pytest.raises(UserError, match="program and manifest disagree"):
        OnnxRuntimeEngine(Artifact(path), EngineSettings(threads=1))


def test_weights_with_which_features_are_not_finite_are_refused(tmp_path):
    from safetensors.torch import save_file

    model = create_model("vit_tiny_patch16_224", VIT, 3, None, None, False, 0)
    with torch.no_grad():
        model.blocks[0].mlp.fc1.bias[0] = 3e38
    save_file(model.state_dict(), tmp_path / "large.safetensors")
    with pytest.raises(UserError, match=r"blocks\.3:class of the backbone is not finite; check the weights"):
        pack(tmp_path / "x.s2a", model_kwargs=VIT, weights=tmp_path / "large.safetensors", **NO_ADAPTER)

"""Weights as people have them: whatever training scripts put around the tensors, the model gets its values, and a file
without them is refused in one line that says what it is."""

import argparse
import collections
import io
import os
import pathlib

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import edge_s2a
from edge_s2a.errors import UserError
from edge_s2a.host.sources.timm import create_model
from edge_s2a.host.sources.weight_names import readings
from tests.helpers.artifacts import SMALL_VIT
from tests.helpers.commands import assert_refused, run_host_here

VIT = "vit_tiny_patch16_224"
FILE = "own.pt"


def trained_vit() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(VIT, num_classes=7, **SMALL_VIT)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.normal_()
    return model


STATE = dict(trained_vit().state_dict())
OTHER = {name: torch.zeros_like(tensor) for name, tensor in STATE.items()}
BACKBONE = {name: tensor for name, tensor in STATE.items() if not name.startswith("head.")}


def prefixed(prefix: str, state=None) -> dict:
    return {prefix + name: tensor for name, tensor in (state or STATE).items()}


def torch_file(saved, **options) -> bytes:
    file = io.BytesIO()
    torch.save(saved, file, **options)
    return file.getvalue()


def loaded(tmp_path, content, name=FILE, model=VIT, **kwargs) -> dict:
    """The backbone of a model for three classes made from a file of `content`, bytes or what torch.save is given."""
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else torch_file(content))
    kwargs = kwargs or (SMALL_VIT if model == VIT else {})
    state = create_model(model, kwargs, 3, None, tmp_path / name, False, seed=0).state_dict()
    return {name: tensor for name, tensor in state.items() if not name.startswith(("head.", "fc."))}


def refusal(tmp_path, content, **options) -> str:
    with pytest.raises(UserError) as refused:
        loaded(tmp_path, content, **options)
    message = str(refused.value)
    assert "\n" not in message
    return message.replace(str(tmp_path / FILE), FILE)


def assert_backbone(state, expected=BACKBONE) -> None:
    torch.testing.assert_close(state, expected, rtol=0, atol=0)


# -- names ---------------------------------------------------------------------------------------------

PREFIXES = ["module.", "model.", "backbone.", "_orig_mod.module.", "module._orig_mod.", "module.model._orig_mod.net."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_stands_before_all_names_is_left_out(tmp_path, prefix):
    assert_backbone(loaded(tmp_path, prefixed(prefix)))


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_a_script_has_beside_the_model_is_left_out(tmp_path, prefix):
    assert_backbone(loaded(tmp_path, {**prefixed(prefix), "criterion.weight": torch.ones(2)}))


def test_names_without_a_prefix_stay_as_they_are(tmp_path):
    """Both ways in one file: only some tensors were in a module around the model; or one block was compiled."""
    mixed = {("module." + name if number % 2 else name): STATE[name] for number, name in enumerate(STATE)}
    assert_backbone(loaded(tmp_path, mixed))
    outer = {(name if name.startswith("head.") else "backbone." + name): STATE[name] for name in STATE}
    assert_backbone(loaded(tmp_path, outer))
    assert_backbone(loaded(tmp_path, {name.replace("blocks.0", "blocks.0._orig_mod"): STATE[name] for name in STATE}))


def test_a_name_of_the_model_counts_more_than_one_that_is_made_from_a_wrapper(tmp_path):
    assert_backbone(loaded(tmp_path, {**STATE, **prefixed("module.", OTHER)}))
    assert_backbone(loaded(tmp_path, {**prefixed("module.", OTHER), **STATE}))


def test_names_of_another_publisher_are_found_behind_a_prefix(tmp_path):
    """Facebook's of ConvNeXt, which timm renames."""
    name, kwargs = "convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}
    expected = timm.create_model(name, num_classes=3, **kwargs).state_dict()
    theirs = {"norm.weight": expected["head.norm.weight"], "norm.bias": expected["head.norm.bias"]}
    for ours, tensor in expected.items():
        if not ours.startswith("head."):
            ours = ours.replace("stem.", "downsample_layers.0.").replace(".blocks", "").replace("conv_dw", "dwconv")
            ours = ours.replace("mlp.fc", "pwconv")
            for stage in range(1, 4):
                ours = ours.replace(f"stages.{stage}.downsample", f"downsample_layers.{stage}")
            theirs[ours] = tensor
    backbone = {name: tensor for name, tensor in expected.items() if not name.startswith("head.fc.")}
    for prefix in ("", "module.", "encoder."):
        state = loaded(tmp_path, prefixed(prefix, theirs), model=name, **kwargs)
        assert_backbone({name: state.get(name, expected[name]) for name in backbone}, backbone)


def test_of_two_models_in_one_file_neither_is_guessed(tmp_path):
    message = refusal(tmp_path, {**prefixed("student."), **prefixed("teacher.", OTHER)})
    assert (
        message
        == "weights own.pt: the model is there several times, below student. and teacher.; save one of them alone"
    )


def test_readings_of_names_from_the_most_literal_on():
    state = {"module.net.a": 1, "module.net.b": 2, "module.loss": 3}
    assert list(readings(state, {"a", "b"}, "here")) == [
        state,
        {"net.a": 1, "net.b": 2, "loss": 3},
        {"a": 1, "b": 2},
        {"a": 1, "b": 2},
        {"net.a": 1, "net.b": 2, "loss": 3},
    ]


# -- entries -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry", ["state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "net", "own"]
)
def test_the_entry_that_holds_the_weights_is_found(tmp_path, entry):
    assert_backbone(loaded(tmp_path, {"epoch": 3, "accuracy": torch.tensor(0.5), entry: STATE}))
    assert_backbone(loaded(tmp_path, {"epoch": 3, "saved": {entry: STATE}}))


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema", "ema"])
def test_the_average_of_the_weights_is_taken_where_there_is_one(tmp_path, average):
    """As timm itself does."""
    assert_backbone(loaded(tmp_path, {"state_dict": OTHER, "model": OTHER, average: STATE}))
    assert_backbone(loaded(tmp_path, {**prefixed("model.", OTHER), **prefixed("model_ema.module.")}))
    if average != "ema":
        (tmp_path / FILE).write_bytes(torch_file({"state_dict": OTHER, "model": OTHER, average: STATE}))
        assert_backbone(timm.models.load_state_dict(tmp_path / FILE), STATE)


def test_the_usual_entry_is_taken_where_others_hold_tensors_too(tmp_path):
    assert_backbone(loaded(tmp_path, {"teacher": OTHER, "state_dict": STATE}))


def test_of_two_unusual_entries_neither_is_guessed(tmp_path):
    message = refusal(tmp_path, {"student": STATE, "teacher": STATE})
    assert message == "weights own.pt: the file holds several models, student and teacher; save one of them alone"


# -- other objects -------------------------------------------------------------------------------------


class Settings:
    """Of a training script; not to be had where the model is packed."""

    def __init__(self):
        self.folder, self.activation = pathlib.Path("/data"), nn.functional.relu


def checkpoint(state) -> dict:
    """What timm's train.py writes, and what other scripts add."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    return {
        "epoch": 3, "arch": VIT, "state_dict": state, "optimizer": optimizer.state_dict(), "version": 2,
        "args": argparse.Namespace(lr=0.1, output=pathlib.Path("/runs"), steps=np.int64(5)), "metric": np.float64(71.5),
        "history": collections.defaultdict(list, loss=[1.0]), "random": np.random.get_state(), "settings": Settings(),
        "classes": frozenset({"cat"}), "digest": b"\x00", "seed": 2**70,
    }  # fmt: skip


@pytest.mark.parametrize("as_before_torch_1_6", [False, True])
def test_objects_beside_the_tensors_are_passed_over(tmp_path, as_before_torch_1_6):
    content = torch_file(checkpoint(STATE), _use_new_zipfile_serialization=not as_before_torch_1_6)
    assert_backbone(loaded(tmp_path, content))


def test_objects_among_the_tensors_are_passed_over(tmp_path):
    assert_backbone(loaded(tmp_path, {**STATE, "epoch": 3, "args": argparse.Namespace(), "name": "own", "none": None}))


def test_parameters_count_as_tensors(tmp_path):
    assert_backbone(loaded(tmp_path, {name: nn.Parameter(tensor) for name, tensor in STATE.items()}))


class Touches:
    """Writes a file when it is loaded carelessly."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_nothing_in_a_file_is_executed(tmp_path):
    touched = tmp_path / "touched"
    assert_backbone(loaded(tmp_path, {**STATE, "x": Touches(eval, f"open({str(touched)!r}, 'w')")}))
    message = refusal(tmp_path, {**STATE, "x": Touches(os.system, f"touch {touched}")})
    assert message.startswith("cannot read weights own.pt: it would run posix.system; give a safetensors file")
    message = refusal(tmp_path, {**STATE, "x": Touches(pathlib.Path.touch, touched)})  # pickled as a call of getattr
    assert message.startswith("cannot read weights own.pt: it would run a function that it makes itself; give a safe")
    assert not touched.exists()


def test_reading_leaves_what_torch_holds_for_safe_as_it_was(tmp_path):
    before = torch.serialization.get_safe_globals()
    loaded(tmp_path, checkpoint(STATE))
    assert torch.serialization.get_safe_globals() == before


# -- numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(tmp_path, dtype):
    given = {name: tensor.to(dtype) for name, tensor in STATE.items()}
    expected = {name: given[name].float() for name in BACKBONE}
    assert_backbone(loaded(tmp_path, given), expected)
    assert_backbone(loaded(tmp_path, safetensors.torch.save(given)), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_position_embeddings_of_other_precisions_are_resized(tmp_path, dtype):
    given = {name: tensor.to(dtype) for name, tensor in STATE.items()}
    state = loaded(tmp_path, given, **{**SMALL_VIT, "img_size": 64})
    assert state["pos_embed"].shape == (1, 65, 48)
    assert state["pos_embed"].isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(tmp_path, value):
    bias = torch.tensor([value] + [0.0] * 47)
    assert refusal(tmp_path, {**STATE, "blocks.1.norm1.bias": bias}) == (
        "weights own.pt: blocks.1.norm1.bias has values that are not finite; use an earlier checkpoint"
    )


def test_a_number_beyond_float32_is_refused(tmp_path):
    double = {**STATE, "norm.bias": torch.full((48,), 1e300, dtype=torch.float64)}
    assert "norm.bias has values that are not finite" in refusal(tmp_path, double)


def test_quantised_weights_are_refused(tmp_path):
    integers = {name: tensor.to(torch.int8) for name, tensor in STATE.items()}
    assert refusal(tmp_path, integers) == (
        "weights own.pt: cls_token is torch.int8; give weights that are not quantised"
    )


def test_the_classifier_may_be_missing_or_of_another_size(tmp_path):
    assert_backbone(loaded(tmp_path, BACKBONE))
    assert_backbone(loaded(tmp_path, {**STATE, "head.weight": torch.zeros(99, 48)}))


def test_batch_norms_need_not_know_how_many_batches_they_saw(tmp_path):
    expected = timm.create_model("resnet18", num_classes=3).state_dict()
    given = {name: tensor for name, tensor in expected.items() if not name.endswith("num_batches_tracked")}
    state = loaded(tmp_path, given, model="resnet18")
    assert_backbone({name: state[name] for name in state if name in given}, {n: given[n] for n in state if n in given})


# -- weights that do not fit ---------------------------------------------------------------------------


def test_weights_of_another_model_are_told_by_what_is_there(tmp_path):
    message = refusal(tmp_path, {"state_dict": timm.create_model("resnet18").state_dict()})
    assert message == (
        "weights own.pt (state_dict) do not fit the model: 0 of its 30 tensors are there, the first missing is "
        "cls_token, 122 more are unknown, the first conv1.weight; these are the weights of another model: give those "
        "of this one"
    )


def test_weights_of_a_deeper_model_are_told_by_what_is_there(tmp_path):
    message = refusal(tmp_path, prefixed("module."), **{**SMALL_VIT, "depth": 3})
    assert message == (
        "weights own.pt do not fit the model: 30 of its 42 tensors are there, the first missing is "
        "blocks.2.norm1.weight; give the weights of this model, or change --model-kwargs"
    )


def test_weights_of_another_size_are_told_by_the_first_shapes(tmp_path):
    message = refusal(tmp_path, STATE, **{**SMALL_VIT, "embed_dim": 24})
    assert message == (
        "weights own.pt do not fit the model: 30 of its 30 tensors are there, 30 have another shape: cls_token "
        "(1, 1, 48) instead of (1, 1, 24), pos_embed (1, 17, 48) instead of (1, 17, 24), patch_embed.proj.weight "
        "(48, 3, 8, 8) instead of (24, 3, 8, 8), ...; the file is of another size of this model: give the name of that "
        "model, or change --model-kwargs"
    )


# -- other files ---------------------------------------------------------------------------------------


def numpy_archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


def script() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), file)
    return file.getvalue()


def onnx_graph() -> bytes:
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    return helper.make_model(helper.make_graph([], "g", [value], [value])).SerializeToString()


ZIP, LEGACY = torch_file(STATE), torch_file(STATE, _use_new_zipfile_serialization=False)
SAFETENSORS = safetensors.torch.save(STATE)

# what it is -> (content, what the message says of it)
FILES = {
    "an empty file": (b"", "is empty"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\nsize 9\n", "run git lfs pull"),
    "a web page": (b"\n<!DOCTYPE html>\n<html>", "web page"),
    "a page of XML": (b"<?xml version='1.0'?><Error/>", "web page"),
    "text": (b"see the release page for the weights\n", "torch did not write it"),
    "JSON": (b'{"weight_map": {}}', "JSON"),
    "a photo": (b"\xff\xd8\xff\xe0" + bytes(500), "torch did not write it"),
    "ONNX": (onnx_graph(), "ONNX"),
    "Keras": (b"\x89HDF\r\n\x1a\n" + bytes(500), "Keras"),
    "TensorFlow Lite": (b"\x1c\x00\x00\x00TFL3" + bytes(500), "TensorFlow Lite"),
    "NumPy's archive": (numpy_archive(), "archive of NumPy"),
    "TorchScript": (script(), "TorchScript"),
    "gzip": (b"\x1f\x8b\x08" + bytes(500), "unpack"),
    "torch's, cut": (ZIP[: len(ZIP) // 2], "cut short or damaged"),
    "torch's, its pickle overwritten": (ZIP[:200] + b"\xff" * 64 + ZIP[264:], "damaged"),
    "old torch's, cut": (LEGACY[: len(LEGACY) // 2], "cut short or damaged"),
    "old torch's, cut early": (LEGACY[:100], "damaged"),
    "safetensors, cut": (SAFETENSORS[: len(SAFETENSORS) // 2], "cut short or damaged"),
    "safetensors, cut early": (SAFETENSORS[:100], "cut short or damaged"),
    "another pickle protocol": (torch_file(checkpoint(STATE), pickle_protocol=4), "pickle protocol"),
    "a whole model": (
        torch_file(trained_vit()),
        "holds a whole timm.models.vision_transformer.VisionTransformer, not its tensors; give a safetensors file, "
        "or one that torch.save(model.state_dict(), ...) wrote",
    ),
    "a whole model of old torch": (
        torch_file(trained_vit(), _use_new_zipfile_serialization=False), "a whole module, not its tensors",
    ),
    "a whole model in a dict": (
        torch_file({"model": trained_vit()}),
        "no tensors by name, but model (timm.models.vision_transformer.VisionTransformer)",
    ),
    "a tensor": (torch_file(torch.zeros(3)), "no tensors by name, but a Tensor"),
    "a list": (torch_file([torch.zeros(3)]), "no tensors by name, but a list"),
    "no tensors": (torch_file({"a": 1, "b": {}, "c": "", "d": None}), "but a (int), b (dict), c (str), ...; give"),
    "an empty dict": (torch_file({}), "no tensors by name, but nothing"),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_another_file_is_refused_by_what_it_is(tmp_path, what):
    content, said = FILES[what]
    message = refusal(tmp_path, content)
    assert FILE in message
    assert said in message
    assert len(message) < 300
    assert "weights_only" not in message


@pytest.mark.parametrize(("content", "name"), [(SAFETENSORS, "own.pth"), (ZIP, "own.safetensors"), (LEGACY, "own")])
def test_the_name_of_a_file_does_not_matter(tmp_path, content, name):
    assert_backbone(loaded(tmp_path, content, name))


def test_a_file_that_is_not_there(tmp_path):
    done = run_host_here(
        "pack", VIT, "--num-classes", 3, "--weights", tmp_path / "none.pt", "--output", tmp_path / "x.s2a"
    )
    assert_refused(done, 2, "cannot read weights", "none.pt: No such file or directory; check the path")


# -- adapters ------------------------------------------------------------------------------------------


def test_import_adapter_reads_the_same_files(small_artifact, tmp_path):
    """A checkpoint of a script that trained the module in a wrapper, in half precision."""
    module = edge_s2a.load_module(small_artifact)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.half())
    edge_s2a.save_module_adapter(small_artifact, module, tmp_path / "expected.safetensors")
    half = {f"_orig_mod.module.model.{name}": tensor.half() for name, tensor in module.state_dict().items()}
    torch.save(checkpoint(half), tmp_path / "state.pt")
    edge_s2a.import_adapter(small_artifact, tmp_path / "state.pt", tmp_path / "adapter.safetensors")
    assert (tmp_path / "adapter.safetensors").read_bytes() == (tmp_path / "expected.safetensors").read_bytes()


def test_import_adapter_refuses_other_files(small_artifact, tmp_path):
    torch.save(trained_vit(), tmp_path / "state.pt")
    done = run_host_here(
        "import-adapter", small_artifact, "--torch", tmp_path / "state.pt", "--output", tmp_path / "a.safetensors"
    )
    assert_refused(done, 2, "state.pt", "holds a whole")

"""Exported models compute what the runtime computes, in the programs that they are for.

Logits are compared as whole tensors on images that nobody has seen: float32 in another order of sums, so a tolerance of
1e-4 of the largest logit.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from onnx import load_model
from safetensors.torch import load_file, save_file

import edge_s2a
from edge_s2a.artifact.adapter import load_adapter, save_adapter
from edge_s2a.artifact.archive import Artifact
from edge_s2a.device.engine.base import EngineSettings
from edge_s2a.device.engine.onnxruntime import OnnxRuntimeEngine
from edge_s2a.errors import UserError
from edge_s2a.host.export.session import plain_session
from edge_s2a.host.golden import normalized
from tests.helpers.artifacts import CLASSES, SMALL_VIT, pack
from tests.helpers.commands import assert_refused, run_command, run_host_here
from tests.helpers.paths import PROJECT

MODELS = {
    "bias": {},
    "all": {"adapter": "bias+prompt+side+lowrank"},
    "side": {"adapter": "side"},
    "head": {"adapter": "head"},
    "options": {"adapter": "prompt:rank=1+side:pooling=4+lowrank:rank=3"},
    "int4": {"weight_format": "int4"},
    "int8 products": {"compute": "int8"},
    "resnet": {"model": "resnet10t", "model_kwargs": {}, "image_size": 64},
    "swin": {
        "model": "swin_tiny_patch4_window7_224",
        "model_kwargs": {"img_size": 64, "window_size": 2, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2)},
    },
}


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


class Tuned:
    """A packed model, an adapter with random values, images, and the logits of the device's engine for them."""

    def __init__(self, folder, options):
        self.artifact = pack(folder / "model.s2a", **options)
        self.adapter = folder / "adapter.safetensors"
        opened = Artifact(self.artifact)
        self.manifest = opened.manifest
        rng = np.random.default_rng(0)
        engine = OnnxRuntimeEngine(opened, EngineSettings(threads=1))
        for array in engine.adapter.values():
            array += 0.05 * rng.standard_normal(array.shape).astype(np.float32)
        save_adapter(self.adapter, engine.adapter, self.manifest, CLASSES)
        pixels = rng.integers(0, 256, (3, *self.manifest.preprocessing.image_size, 3), np.uint8)
        self.image = normalized(pixels, self.manifest.preprocessing).numpy()
        self.logits = engine.logits(self.image)

    def export(self, output, format, int8=False):
        return edge_s2a.export(self.artifact, self.adapter, output, format, int8, threads=1)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            made[name] = Tuned(tmp_path_factory.mktemp("tuned"), MODELS[name])
        return made[name]

    return get


# -- onnx ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_onnx_computes_what_the_runtime_computes(name, int8, tuned, tmp_path):
    model, path = tuned(name), tmp_path / "model.onnx"
    assert model.export(path, "onnx", int8)["relative_error"] < 1e-4
    session = plain_session(str(path))
    assert [entry.name for entry in session.get_inputs()] == ["image"]
    close(session.run(["logits"], {"image": model.image})[0], model.logits)


TRAINED_BEFORE = """
import sys
import numpy as np
import edge_s2a
artifact, adapter, output = sys.argv[1:]
trainer = edge_s2a.Trainer(artifact, threads=1)
trainer.fit([(np.full((32, 32, 3), 80 * number, np.uint8), number) for number in range(3)], steps=2)
trainer.save(adapter)
print(edge_s2a.export(artifact, adapter, output)["relative_error"])
"""


def test_a_program_may_train_and_then_export(tuned, tmp_path):
    """A trainer shares threads between all sessions of its process, and onnxruntime then refuses others."""
    command = [
        sys.executable,
        "-c",
        TRAINED_BEFORE,
        tuned("bias").artifact,
        tmp_path / "a.safetensors",
        tmp_path / "m.onnx",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-4


def test_onnx_says_what_it_is_and_is_plain(tuned, tmp_path):
    model, path = tuned("bias"), tmp_path / "model.onnx"
    model.export(path, "onnx")
    written = load_model(path)
    metadata = {entry.key: entry.value for entry in written.metadata_props}
    assert json.loads(metadata["classes"]) == CLASSES
    assert json.loads(metadata["preprocessing"])["image_size"] == [32, 32]
    operators = {node.op_type for node in written.graph.node}
    assert not operators & {"DequantizeLinear", "QuantizeLinear", "Cast", "BitwiseAnd"}  # all of it is constant


def test_onnx_in_int8_is_smaller(tuned, tmp_path):
    for name, int8 in (("fp32.onnx", False), ("int8.onnx", True)):
        tuned("bias").export(tmp_path / name, "onnx", int8)
    weights = 2 * 12 * 48**2  # of both blocks: a byte each instead of four
    saved = (tmp_path / "fp32.onnx").stat().st_size - (tmp_path / "int8.onnx").stat().st_size
    assert saved > 0.9 * 3 * weights


# -- onnx-features -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def knowledge(tuned, image_folder, tmp_path_factory):
    """What the model "bias" learned from photos."""
    path = tmp_path_factory.mktemp("knowledge") / "k.safetensors"
    done = run_command(
        "learn", tuned("bias").artifact, "--data", image_folder, "--output", path, "--memory-budget", "160MiB"
    )
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_features_are_those_that_the_device_learns_from(int8, tuned, knowledge, tmp_path):
    model, path = tuned("bias"), tmp_path / "features.onnx"
    result = edge_s2a.export(model.artifact, knowledge, path, "onnx-features", int8, threads=1)
    assert result["relative_error"] < 1e-4
    session = plain_session(str(path))
    assert [entry.name for entry in session.get_inputs()] == ["image"]
    assert [(entry.name, entry.shape) for entry in session.get_outputs()] == [("features", ["batch", 96])]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["taps"]) == [list(item) for item in model.manifest.taps.items()]
    assert json.loads(metadata["preprocessing"])["image_size"] == [32, 32]
    engine = OnnxRuntimeEngine(Artifact(model.artifact), EngineSettings(threads=1))
    close(session.run(["features"], {"image": model.image})[0], engine.taps(model.image).features)


def test_an_adapter_has_no_features(tuned, tmp_path):
    with pytest.raises(UserError, match=r"is an adapter, but features .* edge-s2a learn wrote"):
        tuned("bias").export(tmp_path / "features.onnx", "onnx-features")
    assert list(tmp_path.iterdir()) == []


# -- timm, torch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bias", "head", "resnet"])
def test_timm_loads_the_state_dict_with_strict(name, tuned, tmp_path):
    model, path = tuned(name), tmp_path / "model.safetensors"
    model.export(path, "timm")
    fresh = timm.create_model(model.manifest.model, num_classes=3, **model.manifest.model_kwargs)
    fresh.load_state_dict(load_file(path), strict=True)
    with torch.inference_mode():
        close(fresh.eval()(torch.from_numpy(model.image)).numpy(), model.logits)


@pytest.mark.parametrize("name", ["all", "side", "swin"])  # Swin's patch merging has no bias of its own
def test_timm_refuses_what_has_no_place_there(name, tuned, tmp_path):
    with pytest.raises(UserError, match=r"no place.*onnx"):
        tuned(name).export(tmp_path / "x", "timm")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["bias", "all", "side", "head", "options", "int4", "resnet", "swin"])
def test_torch_module_computes_the_same(name, tuned, tmp_path):
    model, path = tuned(name), tmp_path / "model.safetensors"
    model.export(path, "torch")
    module = edge_s2a.load_module(model.artifact)
    module.load_state_dict(load_file(path), strict=True)
    with torch.inference_mode():
        close(module(torch.from_numpy(model.image)).numpy(), model.logits)


@pytest.mark.parametrize("name", ["bias", "all", "head", "options", "resnet"])
def test_what_torch_trains_opens_on_the_device(name, tuned, tmp_path):
    """Some steps of SGD in torch; then the device computes torch's logits, from either way in."""
    model = tuned(name)
    module = edge_s2a.load_module(model.artifact, model.adapter)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in trained) == model.manifest.trainable_parameters
    optimizer = torch.optim.SGD(trained, 1e-3)
    image = torch.from_numpy(model.image)
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(module(image), torch.tensor([0, 1, 2]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    expected = module(image).detach().numpy()
    assert np.abs(expected - model.logits).max() > 1e-3 * np.abs(expected).max()

    edge_s2a.save_module_adapter(model.artifact, module, tmp_path / "module.safetensors")
    save_file({key: value.contiguous() for key, value in module.state_dict().items()}, tmp_path / "state.safetensors")
    done = run_host_here(
        "import-adapter", model.artifact, "--torch", tmp_path / "state.safetensors", "--output",
        tmp_path / "imported.safetensors",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for path in ("module.safetensors", "imported.safetensors"):
        engine = OnnxRuntimeEngine(Artifact(model.artifact), EngineSettings(threads=1))
        values, classes = load_adapter(tmp_path / path, model.manifest)
        assert classes == CLASSES
        for key, array in engine.adapter.items():
            array[...] = values[key]
        close(engine.logits(model.image), expected)


def test_a_state_dict_of_another_model_is_refused(tuned, tmp_path):
    save_file({"head.weight": torch.zeros(3, 48)}, tmp_path / "state.safetensors")
    done = run_host_here(
        "import-adapter", tuned("bias").artifact, "--torch", tmp_path / "state.safetensors",
        "--output", tmp_path / "adapter.safetensors",
    )  # fmt: skip
    assert_refused(done, 2, "state.safetensors", "missing")
    assert not (tmp_path / "adapter.safetensors").exists()


# -- peft ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bias", "head"])
def test_peft_loads_the_folder_onto_the_timm_model(name, tuned, tmp_path):
    """The base is timm's model with the artifact's frozen weights; PEFT brings biases and head."""
    from peft import PeftModel

    model = tuned(name)
    model.export(tmp_path / "peft", "peft")
    base = timm.create_model("vit_tiny_patch16_224", num_classes=3, **SMALL_VIT)
    base.load_state_dict(edge_s2a.load_module(model.artifact).state_dict(), strict=True)
    image = torch.from_numpy(model.image)
    with torch.inference_mode():
        assert np.abs(base.eval()(image).numpy() - model.logits).max() > 0.1 * np.abs(model.logits).max()
        tuned_model = PeftModel.from_pretrained(base, tmp_path / "peft").eval()
        close(tuned_model(image).numpy(), model.logits)


@pytest.mark.parametrize("name", ["all", "options", "resnet", "swin"])
def test_peft_refuses_what_it_cannot_hold(name, tuned, tmp_path):
    with pytest.raises(UserError, match="onnx"):
        tuned(name).export(tmp_path / "peft", "peft")
    assert list(tmp_path.iterdir()) == []


# -- onnxruntime-training ------------------------------------------------------------------------------

TRAIN = """
import json, os, sys, types
import numpy as np
import onnxruntime

# Its package file imports torch, for parts that training from a folder does not use.
package = types.ModuleType("onnxruntime.training")
package.__path__ = [os.path.join(os.path.dirname(onnxruntime.__file__), "training")]
sys.modules["onnxruntime.training"] = package
from onnxruntime.training.api import CheckpointState, Module, Optimizer

folder, data, steps, rate = sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
state = CheckpointState.load_checkpoint(f"{folder}/checkpoint")
module = Module(f"{folder}/training_model.onnx", state, f"{folder}/eval_model.onnx")
optimizer = Optimizer(f"{folder}/optimizer_model.onnx", module)
optimizer.set_learning_rate(rate)
module.train()
losses = []
for _ in range(steps):
    loss, logits = module(data["image"], data["labels"])
    losses.append(float(loss))
    optimizer.step()
    module.lazy_reset_grad()
module.eval()
_, after = module(data["image"], data["labels"])
names = json.loads(sys.argv[5])
np.savez(sys.argv[6], losses=losses, logits=after, **{name: state.parameters[name].data for name in names})
"""


@pytest.mark.parametrize("name", ["bias", "all", "side", "resnet"])
def test_onnxruntime_training_drives_the_4_bit_graph(name, tuned, ort_training_python, tmp_path):
    """Four steps of its AdamW against four of the device's on the same gradients: both trained adapters agree to 1e-3
    of what the steps changed. (Weight decay is off the biases here, and on everything there: 1e-5 a step.)"""
    from edge_s2a.device.optim.optimizer import AdamW

    model, rate, steps = tuned(name), 1e-3, 4
    model.export(tmp_path / "training", "ort-training")
    labels = np.array([0, 1, 2])
    np.savez(tmp_path / "data.npz", image=model.image, labels=labels)
    engine = OnnxRuntimeEngine(Artifact(model.artifact), EngineSettings(threads=1))
    values, _ = load_adapter(model.adapter, model.manifest)
    for key, array in engine.adapter.items():
        array[...] = values[key]
    optimizer = AdamW(engine.adapter, 0.01)
    target = np.eye(3, dtype=np.float32)[labels] / 3
    losses = []
    for _ in range(steps):
        result = engine.training_step(model.image, target)
        losses.append(result.loss)
        optimizer.step({key: value.copy() for key, value in result.gradients.items()}, rate)

    names = json.dumps(list(values))
    subprocess.run(
        [ort_training_python, "-c", TRAIN, tmp_path / "training", tmp_path / "data.npz", str(steps), str(rate), names,
         tmp_path / "result.npz"],
        check=True, cwd=tmp_path,
    )  # fmt: skip
    with np.load(tmp_path / "result.npz") as found:
        np.testing.assert_allclose(found["losses"], losses, rtol=2e-3)
        assert found["losses"][-1] < found["losses"][0]
        logits = engine.logits(model.image)
        np.testing.assert_allclose(found["logits"], logits, atol=0.02 * np.abs(logits).max())
        changes = np.concatenate([(engine.adapter[key] - values[key]).ravel() for key in values])
        theirs = np.concatenate([(found[key].reshape(values[key].shape) - values[key]).ravel() for key in values])
        cosine = changes @ theirs / np.linalg.norm(changes) / np.linalg.norm(theirs)
        assert cosine > 0.99


# -- the command ---------------------------------------------------------------------------------------


def test_the_command_writes_and_says_how_far_outputs_are(tuned, tmp_path):
    model, path = tuned("bias"), tmp_path / "model.onnx"
    done = run_command("export", model.artifact, "--adapter", model.adapter, "--output", path, "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["relative_error"] < 1e-4
    assert path.exists()


def test_int8_is_for_onnx(tuned, tmp_path):
    with pytest.raises(UserError, match="--int8"):
        tuned("bias").export(tmp_path / "x", "timm", True)


def test_an_adapter_of_another_artifact_is_refused(tuned, tmp_path):
    done = run_host_here(
        "export", tuned("resnet").artifact, "--adapter", tuned("bias").adapter, "--output", tmp_path / "x.onnx"
    )
    assert_refused(done, 2, "another artifact")
    assert list(tmp_path.iterdir()) == []

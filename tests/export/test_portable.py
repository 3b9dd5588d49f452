"""An exported ONNX file is one that other engines read: standard operators of an old opset, with explicit attributes.

The reference implementation of ONNX computes it, too: float32 in another order of sums, 1e-4 of the largest logit.
"""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import edge_s2a
from edge_s2a import Learner
from edge_s2a.errors import UserError
from edge_s2a.host.export.portable import portable
from edge_s2a.host.export.session import plain_session
from tests.export.test_export import MODELS, Tuned, close
from tests.helpers.commands import assert_refused, run_host_here

KINDS = ("all", "side", "resnet", "swin", "int8 products")


@pytest.fixture(scope="module", params=KINDS)
def tuned(request, tmp_path_factory):
    return Tuned(tmp_path_factory.mktemp("tuned"), MODELS[request.param])


def exported(tuned, path, **how):
    edge_s2a.export(tuned.artifact, tuned.adapter, path, **how)
    return onnx.load(path)


def opset_of(model):
    ((domain, version),) = [(entry.domain, entry.version) for entry in model.opset_import]
    assert domain == ""
    return version


@pytest.mark.parametrize("int8", [False, True])
def test_a_model_is_of_standard_operators_and_an_old_opset(tuned, tmp_path, int8):
    """Opset 17 in IR 8 is what onnxruntime 1.12 and OpenCV 4.8 read; blocks of int4 need 21."""
    model = exported(tuned, tmp_path / "model.onnx", int8=int8)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert (opset_of(model), model.ir_version) == (17, 8)
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert {"kernel_shape", "strides", "dilations", "group"} <= {entry.name for entry in node.attribute}


def test_the_reference_computes_what_the_device_does(tuned, tmp_path):
    model = exported(tuned, tmp_path / "model.onnx")
    close(ReferenceEvaluator(model).run(["logits"], {"image": tuned.image})[0], tuned.logits)


@pytest.mark.parametrize("opset", [18, 19, 20, 21])
def test_another_opset_can_be_asked_for(tuned, tmp_path, opset):
    model = exported(tuned, tmp_path / "model.onnx", opset=opset)
    assert opset_of(model) == opset
    close(plain_session(str(tmp_path / "model.onnx")).run(["logits"], {"image": tuned.image})[0], tuned.logits)


def test_an_opset_that_cannot_be_is_refused(tuned, tmp_path):
    path = tmp_path / "model.onnx"
    for opset in (16, 22):
        refused = run_host_here(
            "export", tuned.artifact, "--adapter", tuned.adapter, "--output", path, "--opset", opset
        )
        assert_refused(refused, 2, f"opset {opset} cannot hold this model: opsets go from 17 to 21")
    assert not path.exists()


def test_a_fixed_batch_is_fixed(tuned, tmp_path):
    model = exported(tuned, tmp_path / "model.onnx", batch=2)
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_value == 2
    session = plain_session(str(tmp_path / "model.onnx"))
    close(session.run(["logits"], {"image": tuned.image[:2]})[0], tuned.logits[:2])


def test_half_precision_is_within_three_digits(tuned, tmp_path):
    """Within 2 % of the largest logit, of adapters with random values; images and results are float32."""
    if tuned.manifest.int8_layers:
        with pytest.raises(UserError, match="the model computes in int8, whose scales are float32; leave --fp16 out"):
            exported(tuned, tmp_path / "model.onnx", fp16=True)
        return
    model = exported(tuned, tmp_path / "model.onnx", fp16=True)
    onnx.checker.check_model(model, full_check=True)
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    assert not any(tensor.data_type == TensorProto.FLOAT for tensor in model.graph.initializer)
    found = plain_session(str(tmp_path / "model.onnx")).run(["logits"], {"image": tuned.image})[0]
    assert np.abs(found - tuned.logits).max() <= 0.02 * np.abs(tuned.logits).max()
    refused = run_host_here(
        "export", tuned.artifact, "--adapter", tuned.adapter, "--output", tmp_path / "x", "--fp16", "--int8"
    )
    assert_refused(refused, 2, "--fp16 is for the formats onnx and onnx-features with float32 weights")


def test_other_formats_have_neither(tuned, tmp_path):
    with pytest.raises(UserError, match="--opset and --batch are for the formats onnx and onnx-fea"):
        edge_s2a.export(tuned.artifact, tuned.adapter, tmp_path / "model.pt", format="torch", opset=17)


def test_what_was_learned_in_one_pass_is_portable_too(small_artifact, tmp_path):
    rng = np.random.default_rng(0)
    images = [(rng.integers(0, 256, (40, 40, 3), np.uint8), f"c{number % 3}") for number in range(18)]
    learner = Learner(small_artifact, threads=1)
    learner.learn(images)
    learner.save(tmp_path / "K.safetensors")
    for name in ("onnx", "onnx-features"):
        path = tmp_path / f"{name}.onnx"
        edge_s2a.export(small_artifact, tmp_path / "K.safetensors", path, format=name)
        model = onnx.load(path)
        assert {node.domain for node in model.graph.node} == {""}
        assert opset_of(model) == 17


# -- single operators ------------------------------------------------------------------------------------


def model_of(nodes, inputs, outputs, constants=(), opset=21):
    def told(shapes):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]

    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in dict(constants).items()]
    graph = helper.make_graph(nodes, "g", told(inputs), told(outputs), initializers)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


@pytest.mark.parametrize(("turned_a", "turned_b", "alpha"), [(0, 0, 1.0), (1, 0, 0.5), (0, 1, 2.0), (1, 1, 1.0)])
def test_a_fused_product_is_taken_apart(turned_a, turned_b, alpha):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(2, 5, 3) if turned_a else (2, 3, 5)).astype(np.float32)
    b = rng.normal(size=(2, 4, 5) if turned_b else (2, 5, 4)).astype(np.float32)
    node = helper.make_node(
        "FusedMatMul", ["a", "b"], ["y"], domain="com.microsoft", transA=turned_a, transB=turned_b, alpha=alpha
    )
    made = portable(model_of([node], {"a": a.shape, "b": b.shape}, {"y": (2, 3, 4)}))
    expected = alpha * (a.swapaxes(1, 2) if turned_a else a) @ (b.swapaxes(1, 2) if turned_b else b)
    np.testing.assert_allclose(ReferenceEvaluator(made).run(None, {"a": a, "b": b})[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_taken_apart_where_an_opset_has_none(approximate):
    x = np.linspace(-6, 6, 101, dtype=np.float32)[None]
    model = model_of([helper.make_node("Gelu", ["x"], ["y"], approximate=approximate)], {"x": x.shape}, {"y": x.shape})
    expected = ReferenceEvaluator(model).run(None, {"x": x})[0]
    made = portable(model)
    assert opset_of(made) == 17
    np.testing.assert_allclose(ReferenceEvaluator(made).run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-6)
    assert [node.op_type for node in portable(model, 20).graph.node] == ["Gelu"]


def test_axes_become_an_attribute_and_a_convolution_says_everything():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3, 8, 8)).astype(np.float32)
    weight = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("ReduceMean", ["c", "axes"], ["y"], keepdims=0),
    ]
    model = model_of(nodes, {"x": x.shape}, {"y": (1, 4)}, {"w": weight, "axes": np.array([2, 3])})
    made = portable(model)
    conv, mean = made.graph.node
    said = {entry.name: helper.get_attribute_value(entry) for entry in conv.attribute}
    assert said == {
        "kernel_shape": [3, 3], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1,
    }  # fmt: skip
    assert list(mean.input) == ["c"]
    expected = ReferenceEvaluator(model).run(None, {"x": x})[0]
    np.testing.assert_allclose(ReferenceEvaluator(made).run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-6)


def test_an_operator_without_a_standard_form_is_named():
    node = helper.make_node("NGramRepeatBlock", ["x"], ["y"], domain="com.microsoft")
    with pytest.raises(UserError, match=r"com.microsoft.NGramRepeatBlock, which has no standard form"):
        portable(model_of([node], {"x": (1, 2)}, {"y": (1, 2)}))

"""The verifier of memory plans finds what is wrong with one; a right one of every kind of model passes when packed."""

import numpy as np
import onnx
import pytest

from edge_s2a.artifact.archive import PLAN, PROGRAM, Artifact, graph_member
from edge_s2a.artifact.onnx_graph import OnnxType, read_onnx_graph
from edge_s2a.artifact.program import from_json as program_from_json
from edge_s2a.plan.arena import simulate
from edge_s2a.plan.lifetimes import Lifetime, from_json
from edge_s2a.plan.verify import address_errors, placement_errors, plan_errors


@pytest.fixture(scope="module")
def parts(small_artifact):
    artifact = Artifact(small_artifact)
    models = [artifact.read(graph_member(number)) for number in range(artifact.graph_count)]
    programs = program_from_json(artifact.read(PROGRAM), artifact.graph_count, "program")
    return from_json(artifact.read(PLAN), "plan"), programs, models


def test_the_reader_agrees_with_the_onnx_package(parts):
    for model in parts[2]:
        graph, expected = read_onnx_graph(model), onnx.load_from_string(model).graph
        assert [tuple(node) for node in graph.nodes] == [
            (node.op_type, list(node.input), list(node.output)) for node in expected.node
        ]
        assert graph.inputs == [value.name for value in expected.input]
        assert graph.outputs == [value.name for value in expected.output]
        constants = [onnx.numpy_helper.to_array(tensor) for tensor in expected.initializer]
        assert graph.constant_bytes == sum(array.nbytes for array in constants)
        for value in [*expected.input, *expected.output, *expected.value_info]:
            tensor = value.type.tensor_type
            dimensions = [d.dim_param or d.dim_value for d in tensor.shape.dim]
            fixed = [d for d in dimensions if isinstance(d, int)]
            times = [int(d.removesuffix("batch").removesuffix("*") or 1) for d in dimensions if isinstance(d, str)]
            four_bits = tensor.elem_type in (onnx.TensorProto.UINT4, onnx.TensorProto.INT4)
            bits = 4 if four_bits else 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
            assert graph.types[value.name] == OnnxType(bits, fixed, sum(times))


@pytest.mark.parametrize("cut", [1, 100, -1])
def test_a_model_that_is_cut_off_is_refused(parts, cut):
    with pytest.raises(ValueError, match=r"ONNX|type"):
        read_onnx_graph(parts[2][0][:cut])


def changed(parts, change) -> list[str]:
    """The errors of the training plan after `change` of its lifetimes."""
    plans, programs, models = parts
    lifetimes = change(list(plans["training"].lifetimes))
    plans = plans | {"training": plans["training"]._replace(lifetimes=lifetimes)}
    return plan_errors(plans, programs, dict(enumerate(map(read_onnx_graph, models))))


def largest(lifetimes) -> int:
    return int(np.argmax([life.size(8) for life in lifetimes]))


def test_the_plan_of_the_packager_holds(parts):
    assert changed(parts, lambda lifetimes: lifetimes) == []


def test_a_buffer_left_out_is_found(parts):
    def change(lifetimes):
        del lifetimes[largest(lifetimes)]
        return lifetimes

    assert any("fewer than are needed" in error for error in changed(parts, change))


def test_a_saved_tensor_freed_too_early_is_found(parts):
    def change(lifetimes):
        index = next(i for i, life in enumerate(lifetimes) if life.kind == "saved")
        lifetimes[index] = lifetimes[index]._replace(last=lifetimes[index].first)
        return lifetimes

    assert any("fewer than are needed" in error for error in changed(parts, change))


def test_a_plan_that_claims_more_than_a_naive_planner_is_found(parts):
    def change(lifetimes):
        return [life._replace(bytes_per_image=10**9) for life in lifetimes]

    assert any("more than are used" in error for error in changed(parts, change))


def test_a_plan_of_more_nodes_is_found(parts):
    def change(lifetimes):
        return [*lifetimes[:-1], lifetimes[-1]._replace(last=10**6)]

    assert any("the plan more" in error for error in changed(parts, change))


def test_placements_are_sound_and_overlaps_are_found(parts):
    plans = parts[0]
    region_bytes = 1 << 30
    assert placement_errors(plans, 3, region_bytes) == []
    lifetimes = [Lifetime(0, 2, 0, 1000, "workspace"), Lifetime(1, 1, 0, 500, "workspace")]
    addresses = simulate(lifetimes, 1).addresses
    assert address_errors(lifetimes, 1, addresses, 4096) == []
    assert "lies over" in address_errors(lifetimes, 1, [0, 512], 4096)[0]
    assert "ends at" in address_errors(lifetimes, 1, [0, 4096 - 256], 4096)[0]
    # One after the other may lie in the same place.
    apart = [Lifetime(0, 0, 0, 1000, "workspace"), Lifetime(1, 1, 0, 500, "workspace")]
    assert address_errors(apart, 1, [0, 0], 4096) == []

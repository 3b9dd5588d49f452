"""Adapters in late blocks: what lies before them is a program of its own, cut where least has to be kept."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from edge_s2a.artifact.archive import PROGRAM, Artifact
from edge_s2a.artifact.names import IMAGE
from edge_s2a.artifact.program import from_json
from edge_s2a.errors import UserError
from edge_s2a.host.adapters.blocks import blocks_of
from edge_s2a.host.adapters.depth import first_block, modules_before
from edge_s2a.host.export.module import load_module
from edge_s2a.host.graph.cheapest_cut import cheapest_cut
from edge_s2a.host.graph.ir import FLOAT32, INT64, Batch, Graph, Node, TensorType
from edge_s2a.host.sources.timm import create_model
from tests.helpers.artifacts import adapt_and_pack
from tests.helpers.commands import run_command, run_host_here
from tests.helpers.models import MODELS
from tests.host.test_features import CLASSES, assert_a_step_is_that_of_the_whole_model, options_for

# -- the cut -------------------------------------------------------------------------------------------


def graph_of(edges, sizes):
    """A graph whose values are made from those before the arrow: {"c": "ab"}, of so many numbers an image."""
    nodes = [Node("Add", list(reads), [made]) for made, reads in edges.items()]
    types = {name: TensorType(FLOAT32, (Batch(1), size)) for name, size in sizes.items()}
    return Graph("g", [IMAGE], [], nodes, {}, types | {IMAGE: TensorType(FLOAT32, (Batch(1), 9))})


def test_the_cut_is_the_residual_stream_and_not_what_is_made_of_it():
    """As in a block: norm and branch are as large as the stream, and all follow from it."""
    edges = {"s": [IMAGE], "x": ["s"], "norm": ["x"], "q": ["norm"], "y": ["x", "q"]}
    sizes = {"s": 8, "x": 8, "norm": 8, "q": 24, "y": 8}
    assert cheapest_cut(graph_of(edges, sizes), {IMAGE, *edges}, {"norm", "q", "x"}) == ["x"]


def test_a_narrow_place_before_is_taken_only_if_it_is_narrower():
    edges = {"narrow": [IMAGE], "wide": ["narrow"], "last": ["wide"]}
    sizes = {"narrow": 4, "wide": 16, "last": 4}
    graph = graph_of(edges, sizes)
    assert cheapest_cut(graph, {IMAGE, *edges}, {"last"}) == ["last"]  # as late as possible
    assert cheapest_cut(graph, {IMAGE, *edges}, {"wide"}) == ["narrow"]


def test_what_cannot_be_kept_is_not_cut():
    edges = {"small": [IMAGE], "large": [IMAGE]}
    graph = graph_of(edges, {"small": 1, "large": 8})
    graph.types["small"] = TensorType(INT64, (Batch(1), 1))
    with pytest.raises(ValueError, match="reads the image itself"):
        cheapest_cut(graph, {IMAGE, *edges}, {"small", "large"})


@pytest.mark.parametrize("seed", range(30))
def test_no_set_of_values_is_smaller(seed):
    """Against all sets of values, on random graphs of eight."""
    rng = np.random.default_rng(seed)
    names = [f"v{number}" for number in range(8)]
    edges = {
        name: sorted({str(rng.choice([IMAGE, *names[:number]])) for _ in range(rng.integers(1, 4))})
        for number, name in enumerate(names)
    }
    sizes = {name: int(rng.integers(1, 9)) for name in names}
    wanted = {str(name) for name in rng.choice(names[4:], 2)}

    def separates(cut):
        reached = {IMAGE}
        for name, reads in edges.items():
            if name not in cut and reached & set(reads):
                reached.add(name)
        return not reached & wanted

    cuts = [set(cut) for count in range(1, 9) for cut in itertools.combinations(names, count) if separates(cut)]
    least = min(sum(sizes[name] for name in cut) for cut in cuts)
    found = cheapest_cut(graph_of(edges, sizes), {IMAGE, *edges}, wanted)
    assert separates(found)
    assert sum(sizes[name] for name in found) == least


# -- which blocks --------------------------------------------------------------------------------------


def model_of(key):
    name, kwargs, _, _ = MODELS[key]
    return create_model(name, kwargs, CLASSES, None, None, False, 0)


def test_blocks_are_named_by_number_or_from_the_end():
    model, shape = model_of("swin"), (3, 64, 64)
    assert [first_block(model, shape, text) for text in ("1", "3", "4", "last:1", "last:4")] == [1, 3, 4, 4, 1]
    for text in ("0", "5", "last:5", "last", "x", "-1", "last:0"):
        with pytest.raises(UserError, match=f"--from-block {text}: "):
            first_block(model, shape, text)


def test_what_runs_before_a_block_is_the_stem_and_the_blocks_before():
    model = model_of("vit")
    blocks = blocks_of(model, (3, 64, 64))
    before = modules_before(model, blocks[1], (3, 64, 64))
    names = {name.split(".")[0] + "." + name.split(".")[1] if "." in name else name
             for name, module in model.named_modules() if module in before}  # fmt: skip
    assert "blocks.0" in names
    assert "patch_embed" in names
    assert not {"blocks.1", "norm", "head", "blocks"} & names


def test_a_model_without_blocks_says_so(tmp_path):
    refused = run_host_here(
        "pack", "vgg11", "--num-classes", 2, "--from-block", "last:2", "--output", tmp_path / "F.s2a"
    )
    assert refused.returncode == 2
    assert "--from-block last:2: VGG has no sequence of blocks; leave --from-block out" in refused.stderr


# -- the programs ----------------------------------------------------------------------------------------

BUDGET = ("--memory-budget", "300MiB")
LATE = [
    ("vit", ("bias", "lowrank"), "last:1"),
    ("vit", ("s2a",), "2"),
    ("swin", ("bias", "lowrank"), "last:1"),
    ("swin", ("bias", "lowrank"), "3"),
    ("resnet", ("lowrank",), "last:2"),
    ("convnext", ("bias", "lowrank"), "last:2"),
    ("mobilenetv2", ("lowrank", "bias"), "last:3"),
    ("efficientnet", ("lowrank",), "last:4"),
]


@pytest.fixture(scope="module", params=LATE, ids=lambda param: f"{param[0]}-{'+'.join(param[1])}-{param[2]}")
def packed(request, tmp_path_factory):
    """(adapted model, artifact, number of the first block)."""
    key, kinds, text = request.param
    path = tmp_path_factory.mktemp("late") / "model.s2a"
    adapted = adapt_and_pack(path, dataclasses.replace(options_for(key, kinds), from_block=text))
    return adapted, Artifact(path)


def test_no_more_is_kept_than_a_block_s_input(packed):
    """Where adapters act beside the first block, its output and their input may be smaller."""
    adapted, artifact = packed
    manifest = artifact.manifest
    blocks = blocks_of(load_module(artifact.path), adapted.image_shape)
    assert sum(map(math.prod, manifest.features.values())) <= math.prod(blocks[manifest.first_block - 1].input_shape)


def test_nothing_before_the_first_block_is_trained_or_read_again(packed):
    adapted, artifact = packed
    manifest = artifact.manifest
    programs = from_json(artifact.read(PROGRAM), artifact.graph_count, "")
    reads = {name: {value for call in calls for value in call.inputs} for name, calls in programs.items()}
    assert {name for name in reads if IMAGE in reads[name]} == {"features", "taps"}
    assert not reads["features"] & set(manifest.adapter_shapes)
    first = blocks_of(load_module(artifact.path), adapted.image_shape)[manifest.first_block - 1].name
    early = first.rpartition(".")[0] + "." + str(int(first.rpartition(".")[2]) - 1)
    assert not any(name.startswith(f"{early}.") for name in manifest.adapter_shapes if first.rpartition(".")[2] != "0")


def test_a_step_is_that_of_the_whole_model(packed):
    assert_a_step_is_that_of_the_whole_model(*packed)


def test_a_device_trains_late_blocks_from_kept_features(tmp_path, image_folder):
    """The self-check passes, the second epoch computes no features, and what is exported agrees with the runtime."""
    artifact = tmp_path / "late.s2a"
    packed = run_host_here(
        "pack", "vit_tiny_patch16_224", "--model-kwargs", "img_size=32", "patch_size=8", "embed_dim=48", "depth=4",
        "num_heads=3", "--num-classes", 3, "--adapter", "bias+lowrank", "--from-block", "last:2", "--output", artifact,
    )  # fmt: skip
    assert packed.returncode == 0, packed.stderr
    assert run_command("check", artifact).returncode == 0
    run = tmp_path / "run"
    done = run_command(
        "train", artifact, "--data", image_folder, "--output", run, "--epochs", 4, "--threads", 1, *BUDGET, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert done.json["val_accuracy"] > 0.8
    assert (run / "features.cache").stat().st_size > 0
    exported = run_host_here(
        "export", artifact, "--adapter", run / "best.safetensors", "--format", "onnx", "--output", tmp_path / "m.onnx"
    )
    assert exported.returncode == 0, exported.stderr

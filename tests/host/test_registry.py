"""The text form of adapters, and the registry: whatever it lists can be packed."""

import dataclasses

import pytest
import torch
from torch import nn

from edge_s2a.errors import UserError
from edge_s2a.host.adapters import registry
from edge_s2a.host.adapters.inject import inject, starts_of
from edge_s2a.host.adapters.kind import Kind, Starts, parameters_below, whole_number
from edge_s2a.host.adapters.registry import ALIASES, IMPLIED, KINDS, choices, parse_adapter
from edge_s2a.host.pack import adapt, build_graphs
from edge_s2a.host.sources.timm import classifier_names
from tests.helpers.artifacts import options_of, pack
from tests.helpers.commands import assert_refused, run_command, run_here


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("bias", ["bias"]),
        ("s2a", ["bias", "prompt", "side"]),
        ("lowrank+bias", ["bias", "lowrank"]),  # in the order of injection
        ("s2a+bias", ["bias", "prompt", "side"]),
        ("head", ["head"]),
        ("bias+head", ["bias"]),  # the head is always trained
        ("lowrank:rank=4", ["lowrank:rank=4"]),
        ("side:pooling=4+lowrank:rank=3+bias", ["bias", "side:pooling=4", "lowrank:rank=3"]),
        ("side:pooling=8", ["side"]),  # the default
        ("lowrank:rank=2", ["lowrank:rank=2"]),  # not the default: that depends on the model
    ],
)
def test_text_form(text, canonical):
    assert parse_adapter(text) == canonical
    assert parse_adapter("+".join(canonical)) == canonical


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("bias+lora", ["'lora'", *(kind.name for kind in KINDS), *ALIASES]),
        ("", ["''"]),
        ("bias+", ["''"]),
        ("lowrank:size=4", ["lowrank", "'size=4'", "rank (rows of A"]),
        ("lowrank:rank", ["'rank'", "option=value"]),
        ("lowrank:", ["''", "rank"]),
        ("lowrank:rank=2,", ["''"]),
        ("lowrank:rank=2,rank=3", ["rank is given twice"]),
        ("lowrank:rank=four", ["rank must be a whole number from 1 to 256, not 'four'"]),
        ("lowrank:rank=0", ["from 1 to 256, not '0'"]),
        ("lowrank:rank=-1", ["not '-1'"]),
        ("lowrank:rank=257", ["not '257'"]),
        ("side:pooling=" + "9" * 5000, ["pooling must be"]),
        ("bias:rank=2", ["bias has no options"]),
        ("s2a:rank=2", ["s2a has no options", "bias+prompt+side"]),
        ("s2a+side:pooling=4", ["side is given twice"]),
    ],
)
def test_errors_say_what_there_is(text, parts):
    with pytest.raises(UserError) as error:
        parse_adapter(text)
    for part in (f"--adapter {text}", *parts):
        assert part in str(error.value)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_describes_itself(kind):
    assert kind.help
    for field in dataclasses.fields(kind.options):
        assert field.metadata["help"]
        default = getattr(kind.options(), field.name)
        assert default is None or field.metadata["parse"](str(default)) == default
    assert kind.name in [choice.text() for choice in choices([kind.name], "")]


def test_several_options_are_joined_by_commas(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Two:
        rank: int = whole_number(2, 1, 9, "of the map")
        groups: int = whole_number(1, 1, 9, "of channels")

    monkeypatch.setattr(registry, "KINDS", (Kind("two", "", Two, lambda *_: []), IMPLIED))
    assert parse_adapter("two:groups=3,rank=5") == ["two:rank=5,groups=3"]
    assert parse_adapter("two:groups=3,rank=2") == ["two:groups=3"]
    assert choices(["two:groups=3"], "")[0].options == Two(rank=2, groups=3)


def test_the_command_names_every_kind_and_refuses_others(tmp_path):
    text = " ".join(run_command("pack", "--help").stdout.split("--adapter")[-1].split("--saved-bits")[0].split())
    assert all(name in text for name in [*(kind.name for kind in KINDS), *ALIASES])
    done = run_command(
        "pack", "vit_tiny_patch16_224", "--num-classes", 2, "--adapter", "lowrank:rnk=4", "--output", tmp_path / "a.s2a"
    )
    assert_refused(done, 2, "--adapter lowrank:rnk=4", "rank")
    assert list(tmp_path.iterdir()) == []


class Scale(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))


def scale_of(place):
    """A kind that nothing knows but this test: it scales the input of the classifier, or of the first block."""

    def put(backbone, options):
        model = backbone.model
        model.scale = Scale(options.size)
        module = model.get_submodule(classifier_names(model)[0]) if place == "head" else model.blocks[0]
        module.register_forward_pre_hook(lambda _module, arguments: (arguments[0] * model.scale.weight,))
        return parameters_below(model, "scale")

    @dataclasses.dataclass(frozen=True)
    class Options:
        size: int = whole_number(48, 1, 4096, "channels")

    return Kind("scale", "a scale", Options, put, False, lambda *_: Starts([], ["scale"]))


@pytest.mark.parametrize(("place", "graphs"), [("head", {"features"}), ("first block", set())])
def test_a_new_kind_is_its_own_file_and_a_line_in_the_registry(monkeypatch, place, graphs):
    """It is injected, started and packed; whether features are split off follows from where it acts."""
    monkeypatch.setattr(registry, "KINDS", (scale_of(place), *KINDS))
    options = options_of(adapter="scale")
    adapted = adapt(options)
    assert set(adapted.adapter) == {"scale.weight", "head.weight", "head.bias"}
    assert starts_of(parse_adapter(options.adapter), adapted.model, adapted.adapter, 3) == (["head"], ["scale"])
    assert set(build_graphs(options, adapted)) == {"training", "inference", "taps"} | graphs


def test_kinds_of_an_unknown_artifact_are_refused(small_artifact):
    with pytest.raises(UserError, match=r"the adapter of F\.s2a.*no adapter 'new'"):
        inject(nn.Identity(), ["bias", "new"], (3, 8, 8), 2, 0, where="the adapter of F.s2a")


@pytest.mark.parametrize(("adapter", "shown"), [("head", "head"), ("bias", "bias and head")])
def test_inspect_names_the_head_once(tmp_path, adapter, shown):
    path = pack(tmp_path / "model.s2a", adapter=adapter)
    (line,) = (line for line in run_here("inspect", path).stdout.splitlines() if line.startswith("adapter "))
    assert line.split(maxsplit=1)[1] == shown

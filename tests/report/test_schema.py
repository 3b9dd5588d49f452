"""The records of a run: what is written is what is read, whatever else a file holds; docs/RUN.md lists all keys."""

import dataclasses
import json
import re
import types
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_s2a.device.memory.budget import MemoryPlan
from edge_s2a.run import schema
from edge_s2a.run.convert import from_json, number, to_json
from edge_s2a.run.events import Rests, describe_event, merge_rests
from edge_s2a.run.reader import read_facts, read_predictions, read_summary
from edge_s2a.run.writer import MetricsFile, json_line, remove_results, write_facts, write_summary
from tests.helpers.paths import PROJECT
from tests.helpers.runs import metrics_of

FILE_RECORDS = (
    *schema.LINES, schema.PredictionLine, schema.RunFacts, schema.Summary, schema.LearningSummary, schema.RecentDrift,
)  # fmt: skip
DOCUMENT = (PROJECT / "docs" / "RUN.md").read_text(encoding="utf-8")

names = st.text(max_size=6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


def values_of(annotation):
    """Strategy of the values that a run may write into a field."""
    if isinstance(annotation, types.UnionType):
        return st.one_of(*(values_of(part) for part in typing.get_args(annotation)))
    if dataclasses.is_dataclass(annotation):
        return records_of(annotation)
    match typing.get_origin(annotation) or annotation:
        case builtin if builtin is list:
            return st.lists(values_of(typing.get_args(annotation)[0]), max_size=3)
        case builtin if builtin is dict:
            value = typing.get_args(annotation)[1]
            return st.dictionaries(names, json_values if value is typing.Any else values_of(value), max_size=3)
    return {
        int: st.integers(0, 10**15),
        float: st.floats(-1e9, 1e9).map(lambda value: float(f"{value:.3g}")).map(lambda value: round(value, 2)),
        str: st.text(max_size=20),
        bool: st.booleans(),
        types.NoneType: st.none(),
    }[annotation]


def records_of(cls):
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{field.name: values_of(hints[field.name]) for field in dataclasses.fields(cls)})


def is_same_json(left, right):
    """NaN, which equals nothing, is the same text."""
    return json.dumps(left) == json.dumps(right)


@pytest.mark.parametrize("cls", FILE_RECORDS, ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_a_record_that_was_written_is_read_again(cls, data):
    record = data.draw(records_of(cls))
    values = json.loads(json.dumps(to_json(record)))
    again = schema.metrics_line(values) if cls in schema.LINES else from_json(cls, values)
    assert type(again) is cls
    assert is_same_json(to_json(again), to_json(record))
    if "NaN" not in json.dumps(values):
        assert again == record


@pytest.mark.parametrize("cls", FILE_RECORDS, ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_any_json_value_makes_a_record_of_sound_values_or_none(cls, data):
    fields = [field.name for field in dataclasses.fields(cls)]
    values = data.draw(json_values | st.dictionaries(st.sampled_from([*fields, "kind"]), json_values))
    schema.metrics_line(values)
    record = from_json(cls, values)
    if record is not None:
        hints = typing.get_type_hints(cls)
        for name in fields:
            value = getattr(record, name)
            kinds = typing.get_args(hints[name]) if isinstance(hints[name], types.UnionType) else (hints[name],)
            assert isinstance(value, tuple(int | float if kind is float else typing.get_origin(kind) or kind
                                           for kind in kinds))  # fmt: skip
            assert not isinstance(value, float) or number(value) is not None


@given(st.lists(json_values))
def test_events_of_any_lines_are_merged_and_described(lines):
    kinds = [cls.kind for cls in typing.get_args(schema.Event)]
    lines = [
        {"kind": kind, "reason": line, "seconds": line, "temperature_c": line, "attainable_bytes": line}
        for kind in kinds
        for line in lines
    ]
    for event in merge_rests(schema.metrics_line(line) for line in lines):
        assert describe_event(event)


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (
            schema.StepLine(
                epoch=1, step=2, loss=1.23456789, gradient_norm=0.00123456789, accuracy=2 / 3, lr=0.0001234567891,
                images_per_s=12.3456, rss_bytes=1000, seconds=1.23456,
            ),
            '{"kind": "step", "epoch": 1, "step": 2, "loss": 1.234568, "gradient_norm": 0.00123457, '
            '"accuracy": 0.6667, "lr": 0.0001234567891, "images_per_s": 12.35, "rss_bytes": 1000, "seconds": 1.2346}',
        ),
        (
            schema.StepLine(
                epoch=1, step=2, loss=1.0, gradient_norm=123456789.0, accuracy=1.0, lr=0.1, images_per_s=1.0,
                rss_bytes=1000, seconds=1.0, temperature_c=41.5,
            ),
            '{"kind": "step", "epoch": 1, "step": 2, "loss": 1.0, "gradient_norm": 123457000.0, "accuracy": 1.0, '
            '"lr": 0.1, "images_per_s": 1.0, "rss_bytes": 1000, "seconds": 1.0, "temperature_c": 41.5}',
        ),
        (
            schema.EpochLine(
                epoch=1, train_loss=0.123456789, train_accuracy=None, val_loss=None, val_accuracy=0.5,
                skipped_images=0, peak_rss_bytes=1,
            ),
            '{"kind": "epoch", "epoch": 1, "train_loss": 0.123456789, "train_accuracy": null, "val_loss": null, '
            '"val_accuracy": 0.5, "skipped_images": 0, "peak_rss_bytes": 1}',
        ),
        (
            schema.SkippedLine(epoch=1, step=2, reason="not finite"),
            '{"kind": "skipped", "epoch": 1, "step": 2, "reason": "not finite"}',
        ),
        (
            schema.RestoredLine(epoch=1, step=2, reason="why", rate_share=0.5),
            '{"kind": "restored", "epoch": 1, "step": 2, "reason": "why", "rate_share": 0.5}',
        ),
        (
            schema.RestLine(epoch=1, step=2, seconds=1.23456, temperature_c=None, is_power_short=True),
            '{"kind": "rest", "epoch": 1, "step": 2, "seconds": 1.235, "temperature_c": null, "is_power_short": true}',
        ),
        (
            schema.PressureLine(step=2, attainable_bytes=3, rss_bytes=4, budget_bytes=5),
            '{"kind": "pressure", "step": 2, "attainable_bytes": 3, "rss_bytes": 4, "budget_bytes": 5}',
        ),
        (
            schema.PredictionLine(image="red/ü.png", label="red", predicted="blue", probability=0.123456789),
            '{"image": "red/\\u00fc.png", "label": "red", "predicted": "blue", "probability": 0.123457}',
        ),
    ],
    ids=lambda value: type(value).__name__ if dataclasses.is_dataclass(value) else "",
)  # fmt: skip
def test_a_line_is_written_with_these_keys_in_this_order_and_rounded(record, line):
    assert json_line(record) == line + "\n"


def test_numbers_that_cannot_be_computed_with_count_as_missing():
    line = to_json(
        schema.StepLine(
            epoch=1, step=2, loss=1.0, gradient_norm=1.0, accuracy=1.0, lr=0.1, images_per_s=1.0, rss_bytes=1000,
            seconds=1.0,
        )
    )  # fmt: skip
    for damaged in (float("nan"), float("inf"), 10**400, "1", True, None, [1]):
        assert schema.metrics_line({**line, "loss": damaged}) is None
        assert schema.metrics_line({**line, "rss_bytes": damaged}) is None
        assert schema.metrics_line({**line, "temperature_c": damaged}) == schema.metrics_line(line)
    assert schema.metrics_line({**line, "rss_bytes": 1000.5}) is None
    assert schema.metrics_line({**line, "unknown": 1}) == schema.metrics_line(line)


def test_rests_in_a_row_are_merged_until_something_else_happens():
    rest = schema.RestLine(epoch=1, step=2, seconds=1.0, temperature_c=None, is_power_short=False)
    hot = dataclasses.replace(rest, step=3, seconds=2.0, temperature_c=81.0)
    dark = dataclasses.replace(rest, step=4, seconds=None, temperature_c=80.0, is_power_short=True)
    skipped = schema.SkippedLine(epoch=1, step=5, reason=None)
    merged = Rests(epoch=1, step=4, seconds=3.0, temperature_c=81.0, is_power_short=True, count=3)
    assert merge_rests([rest, hot, dark, skipped, rest]) == [merged, skipped, rest]
    assert merge_rests([*merge_rests([rest, hot]), dark]) == [merged]
    assert describe_event(merged) == "rested 3.0 s in 3 rests: 81.0 °C, power is short"


# -- files ---------------------------------------------------------------------------------------------


def events(*steps):
    return [schema.SkippedLine(epoch=1, step=step, reason="not finite") for step in steps]


def epoch_line(epoch):
    return schema.EpochLine(epoch, None, None, None, None, skipped_images=0, peak_rss_bytes=1)


def test_a_metrics_file_is_continued_from_the_step_that_is_done(tmp_path):
    path = tmp_path / schema.METRICS
    first = MetricsFile(path)
    for line in (*events(1, 2), epoch_line(1), *events(3), epoch_line(2), *events(4)):
        first.write(line)
    first.close()
    with open(path, "a") as file:
        file.write('{"kind": "of a later version", "step": 2}\n[1]\n{"kind": "skipped", "step": "2"}\n{"kind": "st')
    resumed = MetricsFile(path, steps=3, epochs=1)
    resumed.write(events(4)[0])
    resumed.close()
    lines = metrics_of(tmp_path)
    assert [(line["kind"], line.get("step", line.get("epoch"))) for line in lines] == [
        ("skipped", 1), ("skipped", 2), ("epoch", 1), ("skipped", 3), ("of a later version", 2), ("skipped", 4),
    ]  # fmt: skip
    MetricsFile(path).close()
    assert path.read_bytes() == b""


@given(facts=records_of(schema.RunFacts), summary=records_of(schema.Summary))
def test_facts_and_summary_are_read_as_they_were_written(tmp_path_factory, facts, summary):
    folder = tmp_path_factory.mktemp("run")
    assert read_facts(folder) == from_json(schema.RunFacts, {})
    assert read_summary(folder) is None
    write_facts(folder, facts)
    write_summary(folder, summary)
    assert is_same_json(to_json(read_facts(folder)), to_json(facts))
    assert read_summary(folder) == summary


def test_results_of_an_earlier_run_are_removed(tmp_path):
    for name in (schema.RUN, schema.METRICS, schema.PREDICTIONS, schema.SUMMARY):
        (tmp_path / name).write_text("{}\n")
    remove_results(tmp_path)
    remove_results(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [schema.METRICS, schema.RUN]


def test_predictions_that_are_damaged_are_passed_over(tmp_path):
    line = schema.PredictionLine(image="a", label="b", predicted="c", probability=0.5)
    text = json_line(line) + '{"image": 1}\n\xff[]\n' + json_line(line) + '{"im'
    (tmp_path / schema.PREDICTIONS).write_text(text)
    assert list(read_predictions(tmp_path)) == [line, line]


# -- docs/RUN.md ---------------------------------------------------------------------------------------


def tables(heading):
    """Rows of cells of the tables between a heading and the next, without their heads."""
    text = re.split(rf"^#+ {re.escape(heading)}$", DOCUMENT, flags=re.MULTILINE)[1]
    text = re.split(r"^#", text, flags=re.MULTILINE)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", text, re.M)]
    return [row for row in rows[1:] if not set("".join(row)) <= set("-")]


def keys_of(cell):
    return re.findall(r"`([^`]+)`", cell)


def fields_of(cls):
    return [field.name for field in dataclasses.fields(cls)]


@pytest.mark.parametrize(
    ("heading", "cls"),
    [
        ("run.json", schema.RunFacts),
        ("artifact", schema.ArtifactFacts),
        ("data", schema.SplitFacts),
        ("plan", schema.PlanFacts),
        ("machine", schema.MachineFacts),
        ("predictions.jsonl", schema.PredictionLine),
        ("summary.json", schema.Summary),
        ("compared", schema.ComparedFacts),
        ("The record of a knowledge file", schema.LearningSummary),
        ("K.recent.json", schema.RecentDrift),
    ],
)
def test_every_key_is_documented_in_its_order_and_none_besides(heading, cls):
    assert [key for row in tables(heading) for key in keys_of(row[0])] == fields_of(cls)


def test_every_line_of_metrics_is_documented():
    documented = {}
    for kind, keys, _ in tables("metrics.jsonl"):
        if kind:
            (name,) = keys_of(kind)
            documented[name] = []
        documented[name] += keys_of(keys)
    assert documented == {cls.kind: fields_of(cls) for cls in schema.LINES}


def test_every_file_is_documented():
    names = [
        schema.RUN, schema.METRICS, schema.PREDICTIONS, schema.SUMMARY, schema.ADAPTER, schema.BEST, schema.CHECKPOINT,
        schema.FEATURES, schema.LEARNED_FIRST, schema.ANSWERS, schema.TRIAL, schema.LOCK,
    ]  # fmt: skip
    assert [key for row in tables("The folder of a run") for key in keys_of(row[0])] == names
    endings = ["", schema.PARTIAL, schema.RECENT]
    assert [key for row in tables("Learning in one pass") for key in keys_of(row[0])] == ["K" + end for end in endings]


def test_the_plan_of_a_run_is_the_memory_plan():
    assert fields_of(schema.PlanFacts) == fields_of(MemoryPlan)

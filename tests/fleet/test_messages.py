"""Both sides of deploy/flower without a network: what the server makes of replies, what a device answers."""

import json

import numpy as np
import pytest

from edge_s2a.artifact.adapter import load_adapter
from edge_s2a.artifact.archive import Artifact
from tests.helpers.artifacts import pack

pytestmark = pytest.mark.fleet

PREAMBLE = """
import json, sys
from pathlib import Path
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from edge_s2a.artifact.archive import ADAPTER, Artifact
from edge_s2a.artifact.tensors import decode
from fleet.adapters import artifact_digest, flatten

TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
artifact = Artifact(Path(sys.argv[1]))
initial, _ = decode(artifact.read(ADAPTER), "adapter")

def message(kind, content):
    made = Message(content, dst_node_id=7, message_type=kind)
    made.metadata.__dict__["_message_id"] = "sent"
    return made
"""

AGGREGATE = (
    PREAMBLE
    + """
from fleet.server import AdapterAveraging

def reply(values, **metrics):
    records = {"arrays": ArrayRecord({"adapter": Array(values)}), "metrics": MetricRecord(metrics)}
    return Message(RecordDict(records), reply_to=message("train", RecordDict()))

values, images = (np.load(sys.argv[2])[name] for name in ("values", "images"))
error = Message(Error(2, "no battery"), reply_to=message("train", RecordDict()))
unfit = [np.full_like(values[0], np.nan), values[0][1:]]
strategy = AdapterAveraging(artifact.manifest, initial, Path(sys.argv[3]), 1.0, 2)
counts = {"num-examples": 6, "class-counts": [1, 2, 3]}
start, _ = strategy.aggregate_train(1, [error, reply(flatten(initial), **counts)])
trained = [reply(row, **{"num-examples": int(count)}) for row, count in zip(values, images)]
bad = [reply(row, **{"num-examples": 1000}) for row in unfit]
strategy.aggregate_train(2, [*trained, error, *bad])
nothing = strategy.aggregate_train(3, [error])
is_initial = np.array_equal(start["adapter"].numpy(), flatten(initial))
print(json.dumps({"starts at initial": bool(is_initial), "nothing": nothing == (None, None)}))
"""
)

ANSWER = (
    PREAMBLE
    + """
from fleet.client import app

config = ConfigRecord({"artifact-digest": artifact_digest(artifact.manifest), "start": False, "server-round": 2})
content = RecordDict({"arrays": ArrayRecord({"adapter": Array(flatten(initial))}), "config": config})
run_config = {"local-steps": 2, "batch-size": 4, "lr": 1e-3}
reasons = []
for node_config in json.loads(sys.argv[2]):
    context = Context(run_id=1, node_id=7, node_config=node_config, state=RecordDict(), run_config=run_config)
    answer = app(message("train", content), context)
    reasons.append(answer.error.reason if answer.has_error() else None)
print(json.dumps(reasons))
"""
)


def test_the_server_writes_the_weighted_mean_of_what_fits(run_script, small_artifact, tmp_path):
    artifact = Artifact(small_artifact)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, artifact.manifest.trainable_parameters)).astype(np.float32)
    images = np.array([10, 30, 200])
    np.savez(tmp_path / "replies.npz", values=values, images=images)
    printed = run_script(AGGREGATE, small_artifact, tmp_path / "replies.npz", tmp_path)
    assert printed == {"starts at initial": True, "nothing": True}
    adapter, classes = load_adapter(tmp_path / "adapter.safetensors", artifact.manifest)
    found = np.concatenate([adapter[name].ravel() for name in sorted(adapter)])
    np.testing.assert_allclose(found, np.average(values, axis=0, weights=images), rtol=1e-5, atol=1e-6)
    assert classes == artifact.manifest.labels
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["start"] * 2 + ["train"] * 7
    errors = [line["error"] for line in lines if "error" in line]
    assert errors.count("no battery") == 3
    assert any("not finite" in error for error in errors)
    assert any("--adapter" in error for error in errors)


def test_a_device_says_why_it_drops_out(run_script, small_artifact, image_folder, tmp_path):
    other = pack(tmp_path / "other.s2a", labels=["one", "two", "three"])
    for name in ("blue", "green", "red"):
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "0.png").write_text("no image")
    node = {"artifact": str(small_artifact), "data": str(image_folder), "memory-budget": "400MiB", "threads": 1}
    cases = [
        ({"artifact": str(other)}, f"artifact {other}"),
        ({"artifact": "missing.s2a"}, "cannot read artifact missing.s2a"),
        ({"data": "nowhere"}, "nowhere"),
        ({"memory-budget": "much"}, "not a size"),
        ({"memory-budget": "60MiB"}, 'start this SuperNode with memory-budget="'),
        ({"data": str(tmp_path / "broken")}, "no training image could be read"),
        ({}, None),
    ]
    configs = [{**node, **changes} for changes, _ in cases] + [{}]
    *reasons, without = run_script(ANSWER, small_artifact, json.dumps(configs))
    assert "--node-config has no artifact" in without
    for reason, (_, part) in zip(reasons, cases, strict=True):
        assert reason is None if part is None else part in reason

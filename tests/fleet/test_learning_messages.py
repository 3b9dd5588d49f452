"""Learning in one pass without a network: what the server makes of answers, what a device answers."""

import json

import numpy as np
import pytest

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.knowledge import load_knowledge, load_taught
from tests.fleet.test_messages import PREAMBLE
from tests.helpers.artifacts import CLASSES, pack
from tests.helpers.commands import run_command

pytestmark = pytest.mark.fleet

# Devices that have learned known features; `Answers` stands for Flower's grid.
SERVE = (
    PREAMBLE
    + """
from edge_s2a.artifact.learned import Kept
from edge_s2a.codec.features import encode
from edge_s2a.device.closed_form.state import add, empty
from fleet.learning_server import learn
from fleet.states import head_of, layout_of, pack

layout = layout_of(artifact.manifest)
rng = np.random.default_rng(0)
classes = ["blue", "green", "red"]

def learned(first, count, names):
    labels = np.arange(first, first + count) % len(names)
    features = rng.standard_normal((count, layout.width)).astype(np.float32)
    features[np.arange(count), labels] += 8
    digests = np.arange(first * 16, (first + count) * 16, dtype=np.uint32).view(np.uint8).reshape(-1, 16)[:count]
    return add(empty(layout), names, Kept(digests, labels, encode(features, layout)))[0]

def record(data, **metrics):
    return RecordDict({"arrays": ArrayRecord({"state": Array(data)}), "metrics": MetricRecord(metrics)})

def measured(accuracy, count):
    return RecordDict({"metrics": MetricRecord({"accuracy": accuracy, "num-examples": count})})

sums = pack(learned(100, 6, ["mauve"]), "sums")
learning = [
    record(pack(learned(0, 12, classes[:2]), "features"), seconds=1.0),
    record(sums),
    Error(2, "no battery"),
    record(np.zeros(5, np.uint8)),
    record(sums),
    measured(1.0, 1),
    None,
]
trying = [measured(0.5, 10), measured(1.0, 30), measured(1.5, 10), measured(float("nan"), 10), measured(1.0, 0)]

class Answers:
    def __init__(self):
        self.sent = []

    def get_node_ids(self):
        return list(range(len(learning)))

    def push_messages(self, messages):
        self.sent.append(list(messages))
        self.waiting = list(learning if len(self.sent) == 1 else trying + [None, None])
        return [str(place) for place in range(len(self.waiting))]

    def pull_messages(self, message_ids):
        (message_id,) = message_ids
        content = self.waiting[int(message_id)]
        return [] if content is None else [Message(content, reply_to=message("train", RecordDict()))]

run = json.loads(sys.argv[3])
grid = Answers()
try:
    learn(grid, run, artifact, Path(sys.argv[2]))
    error = None
except Exception as raised:
    error = str(raised)
sent = [(messages[0].metadata.message_type, len(messages)) for messages in grid.sent]
result = {"error": error, "sent": sent}
if len(grid.sent) == 2:
    content = grid.sent[1][0].content
    names = list(content["config"]["classes"])
    weight, bias = head_of(content["arrays"]["head"].numpy(), len(names), artifact.manifest)
    result |= {"classes": names, "weight": weight.tolist(), "bias": bias.tolist()}
print(json.dumps(result))
"""
)

RUN = {"send": "auto", "fraction": 1.0, "min-nodes": 2, "round-timeout": 3}

ANSWER = (
    PREAMBLE
    + """
from fleet.client import app
from fleet.states import learning_digest, unpack

def said(answer):
    if answer.has_error():
        return {"error": answer.error.reason}
    content, result = answer.content, dict(answer.content["metrics"])
    if "arrays" in content:
        state = unpack(content["arrays"]["state"].numpy(), artifact.manifest)
        result["images"] = dict(zip(state.classes, state.counts.tolist()))
        result["is folded"] = state.folded is not None
    return result

config = {"artifact-digest": learning_digest(artifact.manifest)}
answers = []
for node_config, send, head in json.loads(sys.argv[2]):
    context = Context(run_id=1, node_id=7, node_config=node_config, state=RecordDict(), run_config={"send": send})
    if head is None:
        asked = message("train.learn", RecordDict({"config": ConfigRecord(config)}))
    else:
        values = np.load(head["values"])
        records = {"config": ConfigRecord({**config, "classes": head["classes"]})}
        records["arrays"] = ArrayRecord({"head": Array(values)})
        asked = message("evaluate.learn", RecordDict(records))
    answers.append(said(app(asked, context)))
print(json.dumps(answers))
"""
)


@pytest.fixture(scope="module")
def learner_artifact(tmp_path_factory):
    """One that only learns: without an adapter, for classes that only the images know."""
    path = tmp_path_factory.mktemp("learner") / "learner.s2a"
    return pack(path, adapter="none", labels=None, num_classes=None)


@pytest.fixture(scope="module")
def served(run_script, learner_artifact, tmp_path_factory):
    output = tmp_path_factory.mktemp("served")
    return output, run_script(SERVE, learner_artifact, output, json.dumps(RUN))


def test_the_server_adds_up_what_is_of_use(served, learner_artifact):
    output, printed = served
    assert printed["error"] is None
    knowledge = load_knowledge(output / "knowledge.safetensors", Artifact(learner_artifact).manifest)
    assert knowledge.state.classes == ["blue", "green", "mauve"]
    assert knowledge.state.counts.tolist() == [6, 6, 6]
    assert len(knowledge.state.folded.labels) == 6


def test_devices_that_lie_or_fail_are_left_out_in_a_sentence(served):
    lines = [json.loads(line) for line in (served[0] / "metrics.jsonl").read_text().splitlines()]
    learned = [line for line in lines if line["kind"] == "learn"]
    assert [line["images"] for line in learned if "error" not in line] == [12, 6]
    errors = [line["error"] for line in learned if "error" in line]
    parts = "no battery", "malformed", "both have folded the same 6 images", "no readable array 'state'"
    for error, part in zip(errors, parts, strict=True):
        assert part in error
    refused = [line["error"] for line in lines if line["kind"] == "evaluate" and "error" in line]
    assert len(refused) == 3
    assert all("is impossible" in error for error in refused)
    (fleet,) = (line for line in lines if line["kind"] == "fleet")
    assert fleet["accuracy"] == (0.5 * 10 + 1.0 * 30) / 40
    assert fleet["classes"] == {"blue": 6, "green": 6, "mauve": 6}


def test_the_devices_are_asked_to_try_the_classifier_that_was_written(served, learner_artifact):
    output, printed = served
    assert printed["sent"] == [["train.learn", 7], ["evaluate.learn", 7]]
    head = load_taught(output / "knowledge.safetensors", Artifact(learner_artifact).manifest).head
    assert printed["classes"] == head.classes
    np.testing.assert_allclose(printed["weight"], head.weight / head.temperature, rtol=1e-6)
    np.testing.assert_allclose(printed["bias"], head.bias / head.temperature, rtol=1e-6)


def test_what_was_learned_is_taken_in_an_adapters_place(served, learner_artifact, image_folder):
    image = next((image_folder / "val" / "red").iterdir())
    told = run_command(
        "predict", learner_artifact, image, "--adapter", served[0] / "knowledge.safetensors", "--threads", 1, "--json"
    )
    assert told.returncode == 0, told.stderr


def test_a_wrong_setting_ends_the_run_in_a_sentence(run_script, learner_artifact, tmp_path):
    printed = run_script(SERVE, learner_artifact, tmp_path, json.dumps({**RUN, "send": "pictures"}))
    assert "give auto, features or sums" in printed["error"]
    assert printed["sent"] == []


def test_a_device_answers_or_says_why_not(run_script, learner_artifact, image_folder, tmp_path):
    manifest = Artifact(learner_artifact).manifest
    other = pack(tmp_path / "other.s2a")
    (tmp_path / "broken" / "red").mkdir(parents=True)
    (tmp_path / "broken" / "red" / "0.png").write_text("no image")
    (tmp_path / "reds").mkdir()
    (tmp_path / "reds" / "red").symlink_to(image_folder / "train" / "red")
    zeros = np.zeros((3, manifest.tap_count + 1), np.float32)
    zeros[CLASSES.index("green"), -1] = 1
    np.save(tmp_path / "green.npy", zeros)
    np.save(tmp_path / "narrow.npy", zeros[:, 1:])
    node = {"artifact": str(learner_artifact), "data": str(image_folder), "memory-budget": "400MiB", "threads": 1}
    green = {"values": str(tmp_path / "green.npy"), "classes": CLASSES}
    narrow = {**green, "values": str(tmp_path / "narrow.npy")}
    all_images = dict.fromkeys(CLASSES, 14)
    cases = [
        ({}, "auto", None, {"images": all_images, "is folded": False, "skipped": 0}),
        ({}, "sums", None, {"images": all_images, "is folded": True}),
        ({"data": str(tmp_path / "reds")}, "auto", None, {"images": {"red": 14}}),
        ({"artifact": str(other)}, "auto", None, f"artifact {other}"),
        ({"data": "nowhere"}, "auto", None, "nowhere"),
        ({"data": str(tmp_path / "broken")}, "auto", None, "no training image could be read"),
        ({"memory-budget": "60MiB"}, "auto", None, 'start this SuperNode with memory-budget="'),
        ({}, "auto", green, {"num-examples": 12, "accuracy": 1 / 3}),
        ({}, "auto", narrow, "the server's classifier"),
        ({"data": str(tmp_path / "reds")}, "auto", green, "no folder val"),
        ({"memory-budget": "60MiB"}, "auto", green, 'start this SuperNode with memory-budget="'),
    ]
    asked = [({**node, **changes}, send, head) for changes, send, head, _ in cases]
    answers = run_script(ANSWER, learner_artifact, json.dumps(asked))
    for answer, (*_, expected) in zip(answers, cases, strict=True):
        if isinstance(expected, str):
            assert expected in answer["error"]
        else:
            assert {name: answer.get(name) for name in expected} == expected, answer
            assert answer["budget-bytes"] <= 400 << 20

"""The server's side of learning in one pass: adds up what the devices learned, and solves for the classifier once."""

import time
from collections.abc import Iterator
from logging import INFO, WARNING
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict, UserConfig
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy.strategy_utils import sample_nodes

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.knowledge import Knowledge, save_knowledge
from edge_s2a.artifact.learned import Head, State
from edge_s2a.artifact.manifest import Manifest
from edge_s2a.device.closed_form import state as states
from edge_s2a.device.closed_form.form import choose_form
from edge_s2a.device.closed_form.solve import solve
from edge_s2a.device.learning_summary import summary_of
from edge_s2a.device.memory.available import parse_budget
from edge_s2a.errors import UserError
from edge_s2a.run.convert import to_json
from edge_s2a.sizes import MIB
from edge_s2a.system.memory import make_allocator_predictable, peak_resident_bytes, resident_bytes
from fleet.notes import note
from fleet.states import AUTO, FEATURES, SUMS, layout_of, learning_digest, unpack

KNOWLEDGE = "knowledge.safetensors"
STORAGE_BYTES = 64 * MIB  # of features, as on a device; older ones are folded into sums
POLL_S = 1.0


def learn(grid: Grid, run: UserConfig, artifact: Artifact, output: Path) -> None:
    """Leaves OUTPUT/knowledge.safetensors: what all devices that answered in time have learned, each from its images,
    and the classifier of all. Raises UserError."""
    if run["send"] not in (AUTO, FEATURES, SUMS):
        raise UserError(f"send is {run['send']!r}; give auto, features or sums in --run-config")
    make_allocator_predictable()
    start_s = time.monotonic()
    manifest = artifact.manifest
    nodes = choose_nodes(grid, float(run["fraction"]), int(run["min-nodes"]))
    config = {"artifact-digest": learning_digest(manifest)}
    content = RecordDict({"config": ConfigRecord(config)})
    timeout_s = float(run["round-timeout"])
    state = states.empty(layout_of(manifest))
    for reply in answers(grid, nodes, f"{MessageType.TRAIN}.learn", content, timeout_s):
        state = add(state, reply, manifest, output)
    if not state.classes:
        raise UserError(f"no device has learned anything; {output / 'metrics.jsonl'} says why")
    head = classifier(state)
    record = to_json(summary_of(manifest.model, state, head))
    save_knowledge(output / KNOWLEDGE, Knowledge(state, head, {}, str(artifact.path.resolve()), record), manifest)
    seconds = time.monotonic() - start_s
    log(INFO, "learned %d images of %d classes in %.1f s", head.images, len(head.classes), seconds)
    content = RecordDict(
        {
            "config": ConfigRecord({**config, "classes": head.classes}),
            "arrays": ArrayRecord({"head": Array(sent_head(head))}),
        }
    )
    evaluations = answers(grid, nodes, f"{MessageType.EVALUATE}.learn", content, timeout_s)
    accuracy = mean_accuracy(evaluations, output)
    log(INFO, "accuracy on the devices' validation images: %s", accuracy)
    measured = {} if head.measured is None else {"left-out-accuracy": head.measured.accuracy}
    note(
        output, "fleet", images=head.images, classes=dict(zip(state.classes, state.counts.tolist(), strict=True)),
        form=head.kind, ridge=head.ridge, temperature=head.temperature, **measured, accuracy=accuracy, seconds=seconds,
        **{"peak-bytes": peak_resident_bytes()},
    )  # fmt: skip


def choose_nodes(grid: Grid, fraction: float, least: int) -> list[int]:
    """A share of the devices, at random; waits until there are `least`."""
    count = max(least, int(fraction * len(list(grid.get_node_ids()))))
    return sample_nodes(grid, least, count)[0]


def answers(
    grid: Grid, nodes: list[int], message_type: str, content: RecordDict, timeout_s: float
) -> Iterator[Message]:
    """Yields each device's reply when it has come, one at a time, so that the server holds no two; ends when all have
    come, or after the timeout."""
    messages = [Message(content, dst_node_id=node, message_type=message_type) for node in nodes]
    waiting = dict(zip(grid.push_messages(messages), nodes, strict=True))
    end_s = time.monotonic() + timeout_s
    while waiting and time.monotonic() < end_s:
        time.sleep(POLL_S)
        for message_id in list(waiting):
            for reply in grid.pull_messages([message_id]):
                del waiting[message_id]
                yield reply
    if waiting:
        log(WARNING, "no answer in %g s from nodes %s", timeout_s, list(waiting.values()))


def add(state: State, reply: Message, manifest: Manifest, output: Path) -> State:
    """The state with what one device has learned; or as it was, if that is of no use, which is noted in a sentence."""
    node = reply.metadata.src_node_id
    try:
        data = received(reply, "state")
        learned = unpack(data, manifest)
        state = states.fold_to(states.merge(state, learned), STORAGE_BYTES)
    except UserError as error:
        log(WARNING, "node %d is left out: %s", node, error)
        note(output, "learn", node=node, error=str(error))
        return state
    said = {"images": int(learned.counts.sum()), "classes": learned.classes, "bytes": data.nbytes}
    sent = FEATURES if learned.folded is None else SUMS
    note(output, "learn", node=node, send=sent, **said, **numbers_of(reply))
    return state


def received(reply: Message, name: str) -> np.ndarray:
    """An array of a reply. Raises UserError with the device's own error, or if there is no such array."""
    if reply.has_error():
        raise UserError(reply.error.reason)
    try:
        return reply.content["arrays"][name].numpy()
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"its answer has no readable array {name!r} ({error}); install the same app there") from error


def numbers_of(reply: Message) -> dict[str, float]:
    """What else a reply says, in numbers."""
    return {name: value for name, value in reply.content.get("metrics", {}).items() if isinstance(value, int | float)}


def classifier(state: State) -> Head:
    """Solved for in what memory this machine has. Raises UserError if that is too little, or if there is no image."""
    folded_groups = None if state.folded is None else state.folded.groups
    available_bytes = parse_budget("auto") - resident_bytes()
    form = choose_form(len(state.kept.labels), folded_groups, state.layout, len(state.classes), available_bytes)
    if form is None:
        raise UserError("the server has too little memory for the classifier; end other programs there")
    return solve(state, form)


def sent_head(head: Head) -> np.ndarray:
    """float32 (classes, features + 1): weight and bias whose products with features are logits."""
    return np.column_stack([head.weight, head.bias]) / np.float32(head.temperature)


def mean_accuracy(replies: Iterator[Message], output: Path) -> float | None:
    """Over all validation images of the devices; None where there are none. Notes each reply."""
    right, images = 0.0, 0
    for reply in replies:
        node = reply.metadata.src_node_id
        try:
            accuracy, count = evaluation_of(reply)
        except UserError as error:
            log(WARNING, "node %d does not evaluate: %s", node, error)
            note(output, "evaluate", node=node, error=str(error))
            continue
        right, images = right + accuracy * count, images + count
        note(output, "evaluate", node=node, **numbers_of(reply))
    return right / images if images else None


def evaluation_of(reply: Message) -> tuple[float, int]:
    """(accuracy, images) from a reply. Raises UserError with the device's own error, or for impossible numbers."""
    if reply.has_error():
        raise UserError(reply.error.reason)
    numbers = numbers_of(reply)
    accuracy, count = numbers.get("accuracy", -1), numbers.get("num-examples", 0)
    if not (0 <= accuracy <= 1 and isinstance(count, int) and count > 0):
        raise UserError(f"an accuracy of {accuracy} on {count} images is impossible; install the same app there")
    return accuracy, count

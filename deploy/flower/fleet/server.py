"""The server's side of a fleet: sends the adapter out, averages what comes back, writes it as an adapter file."""

from collections.abc import Iterable
from logging import WARNING
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, UserConfig
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from edge_s2a.artifact.adapter import save_adapter
from edge_s2a.artifact.archive import ADAPTER, Artifact
from edge_s2a.artifact.manifest import Manifest
from edge_s2a.artifact.tensors import decode
from edge_s2a.errors import UserError
from fleet.adapters import Adapter, artifact_digest, flatten, merge_starts, unflatten
from fleet.learning_server import learn
from fleet.notes import note, start_notes

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Trains an adapter, or learns in one pass, as `method` says. Leaves OUTPUT/metrics.jsonl, a line for each reply,
    and what each of the two leaves. Raises UserError."""
    run = context.run_config
    methods = {"train": train, "learn": learn}
    if run["method"] not in methods:
        raise UserError(f"method is {run['method']!r}; give train or learn in --run-config")
    output = Path(run["output"])
    start_notes(output)
    methods[run["method"]](grid, run, Artifact(Path(run["artifact"])), output)


def train(grid: Grid, run: UserConfig, artifact: Artifact, output: Path) -> None:
    """Leaves OUTPUT/adapter.safetensors, written after each round."""
    if not artifact.manifest.can_train:
        raise UserError(f'{artifact.path} has no adapter, it only learns in one pass; run with method="learn"')
    initial, _ = decode(artifact.read(ADAPTER), f"the adapter of {artifact.path}")
    strategy = AdapterAveraging(artifact.manifest, initial, output, run["fraction"], run["min-nodes"])
    config = {"artifact-digest": artifact_digest(artifact.manifest)}
    strategy.start(
        grid,
        initial_arrays=arrays_of(initial),
        num_rounds=run["rounds"] + strategy.rounds_before_training,
        timeout=run["round-timeout"],
        train_config=ConfigRecord(config),
        evaluate_config=ConfigRecord(config),
    )


class AdapterAveraging(FedAvg):
    """Federated averaging, weighted by the numbers of images, of adapters that fit one artifact.

    Its first round trains nothing: each device says where it would start, and all start from what merge_starts makes of
    that. Should no device answer, the next round is the first.
    """

    def __init__(self, manifest: Manifest, initial: Adapter, output: Path, fraction: float, min_nodes: int):
        super().__init__(fraction, fraction, min_nodes, min_nodes, min_nodes)
        self._manifest, self._initial = manifest, initial
        self._output = output
        self._is_started = not manifest.head
        self.rounds_before_training = int(not self._is_started)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """FedAvg's, with the news whether the fleet has started."""
        config["start"] = not self._is_started
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """FedAvg's of those adapters that fit, or where to start from them; writes the result."""
        replies = self._usable("train" if self._is_started else "start", server_round, replies)
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None:
            return None, None
        if not self._is_started:
            arrays = arrays_of(self._merged(replies))
            self._is_started = True
        adapter = adapter_of(arrays, self._manifest)
        save_adapter(self._output / "adapter.safetensors", adapter, self._manifest, self._manifest.class_names())
        return arrays, metrics

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """FedAvg's."""
        return super().aggregate_evaluate(server_round, self._usable("evaluate", server_round, replies))

    def _merged(self, replies: list[Message]) -> Adapter:
        contents = [reply.content for reply in replies if not reply.has_error()]
        starts = [adapter_of(content["arrays"], self._manifest) for content in contents]
        counts = np.array([content["metrics"]["class-counts"] for content in contents])
        return merge_starts(self._initial, starts, counts, self._manifest.head)

    def _usable(self, kind: str, server_round: int, replies: Iterable[Message]) -> list[Message]:
        """Replies without those whose adapter does not fit; devices' own errors are for FedAvg to report. Notes all."""
        usable = []
        for reply in replies:
            node, error = reply.metadata.src_node_id, error_of(reply, self._manifest)
            answer = {"error": error} if error else said(reply)
            note(self._output, kind, round=server_round, node=node, **answer)
            if error is None or reply.has_error():
                usable.append(reply)
            else:
                log(WARNING, "node %d is left out of this round: %s", node, error)
        return usable


def error_of(reply: Message, manifest: Manifest) -> str | None:
    """Why a reply is of no use: the device's own error, or what does not fit of its adapter."""
    if reply.has_error():
        return reply.error.reason
    try:
        if "arrays" in reply.content:
            adapter_of(reply.content["arrays"], manifest)
    except UserError as error:
        return str(error)
    return None


def said(reply: Message) -> dict:
    """What a reply says, in plain data: metrics and the bytes of its adapter."""
    answer = dict(reply.content["metrics"])
    if "arrays" in reply.content:
        answer["adapter-bytes"] = reply.content["arrays"].count_bytes()
    return answer


def arrays_of(adapter: Adapter) -> ArrayRecord:
    """As it travels."""
    return ArrayRecord({"adapter": Array(flatten(adapter))})


def adapter_of(arrays: ArrayRecord, manifest: Manifest) -> Adapter:
    """Raises UserError unless it fits."""
    return unflatten(arrays["adapter"].numpy(), manifest)

"""What a device answers with: its settings, its budget, and a sentence where it has no answer."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.manifest import Manifest
from edge_s2a.device.memory.available import parse_budget
from edge_s2a.errors import BudgetError, UserError
from edge_s2a.sizes import MIB

Loaded = TypeVar("Loaded")


def reply(message: Message, context: Context, work: Callable[[RecordDict, Context], RecordDict]) -> Message:
    """What `work` answers, or an error that says in a sentence why this device has no answer: then the round goes on
    without it."""
    try:
        return Message(work(message.content, context), reply_to=message)
    except UserError as error:
        print(f"edge-s2a: {error}", file=sys.stderr, flush=True)
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error)), reply_to=message)


def setting(context: Context, name: str) -> str:
    """Of the SuperNode's --node-config. Raises UserError where it is missing."""
    if name not in context.node_config:
        raise UserError(f'--node-config has no {name}; start this SuperNode with {name}="..." there')
    return str(context.node_config[name])


def data_folder(context: Context) -> Path:
    return Path(setting(context, "data"))


def own_manifest(content: RecordDict, context: Context, digest: Callable[[Manifest], str]) -> Manifest:
    """Of this device's artifact. Raises UserError if its digest is not the one that the server sent."""
    path = Path(setting(context, "artifact"))
    manifest = Artifact(path).manifest
    if digest(manifest) != content["config"]["artifact-digest"]:
        raise UserError(
            f"artifact {path} (model {manifest.model}) is not the server's; copy the server's artifact to this device"
        )
    return manifest


def within_budget(context: Context, held_bytes: int, load: Callable[[int], Loaded]) -> Loaded:
    """What `load` makes within this device's budget, of which `held_bytes` are for something else. Raises UserError
    where the budget is too small."""
    budget = str(context.node_config.get("memory-budget", "auto"))
    try:
        return load(parse_budget(budget) - held_bytes)
    except BudgetError as error:
        least_mib = -(-(error.minimum_budget_bytes + held_bytes) // MIB)
        raise UserError(
            f"a memory budget of {budget} cannot be met; "
            f'start this SuperNode with memory-budget="{least_mib}MiB" or more in --node-config'
        ) from error


def nothing_readable(skipped: list[str]) -> UserError:
    return UserError(f"no training image could be read; correct these: {sorted(set(skipped))[:3]}")

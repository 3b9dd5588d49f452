"""Names of tensors as training scripts leave them: modules that wrap the model put theirs in front."""

from collections import Counter
from collections.abc import Collection, Iterator
from itertools import takewhile
from typing import TypeVar

from edge_s2a.errors import UserError
from edge_s2a.host.sources.weights_file import is_average

Value = TypeVar("Value")

# torch's modules around others, which may be anywhere in a name: DistributedDataParallel, compile, FSDP, and activation
# checkpoints.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def readings(state: dict[str, Value], own: Collection[str], where: str) -> Iterator[dict[str, Value]]:
    """The ways to read the names of `state` for a model whose tensors are called `own`, the most literal first: as they
    are, without torch's wrappers, and what lies below a prefix. Raises UserError where two prefixes suit as well."""
    bare = unwrapped(state)
    yield state
    yield bare
    yield below(bare, usual_prefix(bare, own, where), own)
    # A wrapper may be all that tells the model from what a script put beside it.
    yield below(state, usual_prefix(state, own, where), own)
    # Where a publisher's names differ from the model's, only that all have it shows a prefix.
    yield below(bare, shared_prefix(bare), own)


def unwrapped(state: dict[str, Value]) -> dict[str, Value]:
    """Without the names of torch's wrappers; a tensor that is called so already comes before one that would be."""
    bare = {name: ".".join(part for part in name.split(".") if part not in WRAPPERS) for name in state}
    return {bare[name]: state[name] for name in sorted(state, key=lambda name: bare[name] == name)}


def below(state: dict[str, Value], prefix: str, own: Collection[str]) -> dict[str, Value]:
    """What lies below `prefix`, and tensors outside that are the model's by name all the same. The rest belongs to what
    was around the model."""
    outside = {name: value for name, value in state.items() if name in own}
    return outside | {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}


def usual_prefix(names: Collection[str], own: Collection[str], where: str) -> str:
    """What stands before the model's own names, most often; "" where nothing does."""
    counts = Counter(
        name[:start]
        for name in names
        for start in (0, *(place + 1 for place, letter in enumerate(name) if letter == "."))
        if name[start:] in own
    )
    best = [prefix for prefix in counts if counts[prefix] == max(counts.values())]
    averages = [prefix for prefix in best if is_average(prefix)]
    if not best or "" in best:
        return ""
    if len(averages) == 1 or len(best) == 1:
        return (averages or best)[0]
    raise UserError(f"{where}: the model is there several times, below {' and '.join(best)}; save one of them alone")


def shared_prefix(names: Collection[str]) -> str:
    """The modules that stand before all names, each with its dot."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)  # as deep as the shortest name
    return "".join(f"{level[0]}." for level in takewhile(lambda level: len(set(level)) == 1, levels))

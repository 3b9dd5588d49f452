"""Reads the tensors of a file of weights, whatever else a training script has put beside them."""

import pickle
import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from edge_s2a.errors import UserError

WANTED = "give a safetensors file, or one that torch.save(model.state_dict(), ...) wrote"

# What a file is that begins so.
SIGNATURES = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file it stands for; run git lfs pull",
    b"\x89HDF": f"is an HDF5 file, as Keras writes; {WANTED}",
    b"GGUF": f"is a GGUF file; {WANTED}",
    b"\x1f\x8b": f"is compressed with gzip; unpack it, and {WANTED}",
    b"{": f"is JSON, perhaps the index of weights in several files; {WANTED}",
    b"\x08": f"is a graph of ONNX or TensorFlow; {WANTED}",
    b"\x93NUMPY": f"is an array of NumPy; {WANTED}",
}

# Entries under which scripts keep the weights, those that count most first; averages of the weights come before all.
ENTRIES = ("state_dict", "model_state_dict", "model", "net", "network", "module")


class Weights(NamedTuple):
    """Tensors by name, on the CPU, floating-point ones in float32; `entry` is where in the file they were, "" for a
    file that holds nothing else."""

    tensors: dict[str, torch.Tensor]
    entry: str


class StandIn:
    """In place of an object that is no tensor: it takes what the file says of it, and does nothing with it."""

    def __new__(cls, *arguments: object) -> "StandIn":
        return object.__new__(cls)

    def __init__(self, *arguments: object):
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_weights(path: Path) -> Weights:
    """The tensors of a safetensors or torch file. What the file is shows in its content, not in its name.

    Nothing in the file is executed. Of a checkpoint, the average of the weights is taken where there is one, as timm
    does, otherwise the entry that is usual, or the only one; entries that are no tensors are passed over.
    Raises UserError for a file that is damaged, of another kind, or without tensors by name.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(1024)
    except OSError as error:
        raise UserError(f"cannot read weights {path}: {error.strerror}; check the path") from error
    if is_safetensors(start):
        return Weights(in_float32(read_safetensors(path)), "")
    if other := what_else(path, start):
        raise UserError(f"weights {path}: the file {other}")
    return choose(read_torch(path), path)


def is_safetensors(start: bytes) -> bool:
    """Eight bytes give the length of a JSON object, which follows. The format allows it 100 MB."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= 100_000_000


def what_else(path: Path, start: bytes) -> str | None:
    """What a file that begins with `start` is, and what to do; None if torch may have written it."""
    text = start.lstrip().lower()
    if not start:
        return "is empty; copy or download it again"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not weights; download the file itself"
    if start[4:8] == b"TFL3":
        return f"is a TensorFlow Lite model; {WANTED}"
    for signature, meaning in SIGNATURES.items():
        if start.startswith(signature):
            return meaning
    if start.startswith(b"PK"):
        return what_else_in_zip(path)
    return None


def what_else_in_zip(path: Path) -> str | None:
    """`what_else` of a ZIP archive, as torch's files are."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "is cut short or damaged; copy or download it again"
    if any(name.endswith(".npy") for name in names):
        return f"is an archive of NumPy; {WANTED}"
    if any("/code/" in name for name in names):
        return f"is a TorchScript program; {WANTED}"
    if not any(name.endswith("/data.pkl") for name in names):
        return f"is a ZIP archive of something else; {WANTED}"
    return None


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"weights {path} are cut short or damaged ({error}); copy or download them again") from error


def read_torch(path: Path) -> Any:
    """What torch.save was given, with a `StandIn` for each object whose class torch does not know as harmless."""
    try:
        with open(path, "rb") as file:
            names = names_in_torch_file(file)
    except (ValueError, OSError, zipfile.BadZipFile) as error:  # ValueError: of pickletools
        raise UserError(f"cannot read weights {path}: torch did not write it, or it is damaged; {WANTED}") from error
    harmless: Any = [(stand_in(name), name) for name in names]  # torch annotates less than it documents
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(harmless):
            warnings.simplefilter("ignore")  # of what else torch would read: the message below says what matters
            with open(path, "rb") as file:  # of a path torch would also look at the name
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"cannot read weights {path}: {reason(error)}; {WANTED}") from error
    except Exception as error:  # torch raises much else for a file that was cut
        raise UserError(
            f"weights {path} are cut short or damaged ({first_line(error)}); copy or download them again"
        ) from error


def names_in_torch_file(file: BinaryIO) -> set[str]:
    """Full names of the classes and functions that a torch file asks for, as torch's reader will see them. Raises
    ValueError for a file that holds no pickle."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            (member, *_) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            return set(names_in_pickle(archive.open(member)))
    file.seek(0)
    # Before 1.6 torch wrote a magic number, a version, facts about the machine and the object, one pickle each.
    return {name for _ in range(4) for name in names_in_pickle(file)}


def names_in_pickle(file: Any) -> Iterator[str]:
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            module, name = str(argument).split(" ", 1)
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            yield f"{module}.{name}"


def stand_in(name: str) -> Any:
    # torch's reader fills nothing but its own dicts.
    if name == "collections.defaultdict":
        return lambda *_: OrderedDict()
    return type(name, (StandIn,), {"__module__": "builtins"})  # shown by its name alone


def reason(error: pickle.UnpicklingError) -> str:
    """Why torch refuses, without its advice to switch safety off."""
    text = str(error)
    if blocked := re.search(r"GLOBAL (\S+) whose module", text):
        return f"it would run {blocked[1]}"
    if "Trying to call reduce" in text:
        return "it would run a function that it makes itself"
    if "Only persistent_load of storage" in text:
        return "it holds a whole module, not its tensors"
    if filled := re.search(r"Can only (?:SETITEM|APPEND).* got <class '(\S+)'>", text):
        return f"beside the tensors it holds a {filled[1]}, which cannot be passed over"
    if "Unsupported operand" in text:
        return "it was saved with another pickle protocol than 2, torch's own, or is damaged"
    return "torch did not write it, or it is damaged"


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def choose(saved: Any, path: Path) -> Weights:
    """The weights among all that a torch file holds."""
    if isinstance(saved, StandIn):
        raise UserError(f"weights {path}: the file holds a whole {type(saved).__name__}, not its tensors; {WANTED}")
    found = dict(tensors_by_entry(saved, ()))
    if not found:
        raise UserError(f"weights {path}: the file holds no tensors by name, but {contents(saved)}; {WANTED}")
    # Training scripts keep a tensor here and there beside the weights.
    enough = max(map(len, found.values())) / 2
    ranks = {entry: rank(entry) for entry, tensors in found.items() if len(tensors) >= enough}
    first, *others = [entry for entry in ranks if ranks[entry] == min(ranks.values())]
    if others:
        names = " and ".join(" / ".join(entry) for entry in (first, *others))
        raise UserError(f"weights {path}: the file holds several models, {names}; save one of them alone")
    return Weights(in_float32(found[first]), " / ".join(first))


def tensors_by_entry(value: Any, entry: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, torch.Tensor]]]:
    """(the keys that lead to it, its tensors) of each dict that has any, in `value` and the dicts in it."""
    if not isinstance(value, dict):
        return
    named = {name: item for name, item in value.items() if isinstance(name, str)}
    # Distributed, quantised and meta tensors have no values of their own that could be copied.
    tensors = {name: item.data for name, item in named.items() if is_plain(item)}
    if tensors:
        yield entry, tensors
    for name, item in named.items():
        yield from tensors_by_entry(item, (*entry, name))


def is_plain(value: object) -> bool:
    plain = type(value) in (torch.Tensor, torch.nn.Parameter)
    return plain and not (value.is_meta or value.is_quantized or value.is_sparse)  # type: ignore[attr-defined]


def rank(entry: tuple[str, ...]) -> int:
    """The smaller, the rather does an entry hold the weights: averages, usual names, the file itself, others."""
    if any(is_average(name) for name in entry):
        return -1
    places = [ENTRIES.index(name) for name in entry if name in ENTRIES]
    return min(places, default=len(ENTRIES) if not entry else len(ENTRIES) + 1)


def is_average(name: str) -> bool:
    """Whether a name says that these are averages of the weights over the training: state_dict_ema, ema_model, ..."""
    return "ema" in re.split(r"[._]", name.lower())


def contents(saved: Any) -> str:
    """What is in a file without tensors, in a few words."""
    if not isinstance(saved, dict):
        return f"a {type(saved).__name__}"
    kinds = [f"{name} ({type(value).__name__})" for name, value in islice(saved.items(), 3)]
    return ", ".join(kinds) + (", ..." if len(saved) > 3 else "") if kinds else "nothing"


def in_float32(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Floating-point tensors in the precision in which the host computes; others as they are."""
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}

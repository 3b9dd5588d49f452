"""Opens mutated files, as a program of its own: python tests/field/fuzz.py ARTIFACT DATA FOLDER FIRST COUNT

DATA: images, FOLDER: a finished run and room for files. Each case is the command line on one mutated file; prints for
each a line of its number, exit code, and the peak resident bytes so far. A crash, or a hang of over 10 s, ends the
program.
"""

import contextlib
import dataclasses
import faulthandler
import io
import json
import random
import sys
from pathlib import Path

import numpy as np

from edge_s2a.artifact import archive, tensors
from edge_s2a.artifact.archive import Artifact, write_archive
from edge_s2a.cli.main import main
from edge_s2a.system.memory import peak_resident_bytes

HANG_S = 10
JUNK = [
    None, True, -1, 0, 1, 2**31, 2**63, 2**70, 1e308, float("nan"), "", "x" * 5000, "\ud800", "../../etc/passwd", [],
    {}, [[]], [None], {"": 0}, [0] * 50,
]  # fmt: skip


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flipped, cut, doubled, exchanged or filled at random places."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        place, size = rng.randrange(len(changed) + 1), rng.choice([1, 4, 64, 4096])
        match rng.randrange(6):
            case 0:
                changed[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                del changed[place : place + size]
            case 2:
                changed[place:place] = changed[place : place + size]
            case 3:
                changed[place : place + size] = bytes([rng.choice([0, 255])]) * size
            case 4:
                del changed[place:]
            case 5:
                other = rng.randrange(len(changed) + 1)
                changed[place : place + size] = changed[other : other + size]
    return bytes(changed)


def mutated_json(text: bytes, rng: random.Random) -> bytes:
    """One value, anywhere, in place of another; or text that nests deeper than any parser goes."""
    if rng.random() < 0.05:
        return b"[" * 100_000
    document = json.loads(text)
    node, parents = document, []
    while isinstance(node, dict | list) and node:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        parents.append((node, key))
        node = node[key]
        if rng.random() < 0.15:
            break
    if not parents:
        return json.dumps(rng.choice(JUNK)).encode()
    container, key = parents[-1]
    match rng.randrange(4):
        case 0:
            del container[key]
        case 1 if isinstance(node, int) and not isinstance(node, bool):
            container[key] = node + rng.choice([-1, 1, 1000, -(10**6), 10**12])
        case 2 if isinstance(container, list):
            container.insert(key, container[rng.randrange(len(container))])
        case _:
            container[key] = rng.choice(JUNK)
    return json.dumps(document).encode()


def mutated_member(name: str, data: bytes, rng: random.Random) -> bytes:
    if name.endswith(".json") and rng.random() < 0.8:
        return mutated_json(data, rng)
    if name.endswith(".safetensors") and rng.random() < 0.6:
        size = int.from_bytes(data[:8], "little")
        header = mutated_json(data[8 : 8 + size], rng)
        return len(header).to_bytes(8, "little") + header + data[8 + size :]
    return mutated_bytes(data, rng)


def mutated_artifact(path: Path, output: Path, rng: random.Random) -> None:
    """Of the file as it is, or of a member, with digests that are right again: so that parsers behind them are met."""
    if rng.random() < 0.3:
        output.write_bytes(mutated_bytes(path.read_bytes(), rng))
        return
    artifact = Artifact(path)
    members = {name: artifact.read(name) for name in artifact.manifest.members}
    names = [*members, archive.MANIFEST, archive.PROGRAM, archive.PLAN, archive.WEIGHTS]
    name = rng.choice(names)
    text = artifact.manifest.to_json()
    if name == archive.MANIFEST:
        text = mutated_json(text, rng)
    else:
        members[name] = mutated_member(name, members[name], rng)
        text = dataclasses.replace(artifact.manifest, members=archive.digests(members)).to_json()
    # What no manifest can say is written all the same.
    raw = type("Raw", (), {"to_json": lambda self: text})()
    write_archive(output, raw, members)


def mutated_tensors(path: Path, output: Path, rng: random.Random) -> None:
    """Of the file as it is, its header, or what it says, the latter with a digest that is right again."""
    data = path.read_bytes()
    if rng.random() < 0.3:
        output.write_bytes(mutated_bytes(data, rng))
        return
    if rng.random() < 0.4:
        output.write_bytes(mutated_member(path.name, data, rng))
        return
    arrays, metadata = tensors.decode(data, str(path))
    arrays = {key: array.copy() for key, array in arrays.items()}
    del metadata["sha256"]
    if rng.random() < 0.5:
        key = rng.choice(list(metadata))
        is_json = metadata[key][:1] in ("[", "{")
        metadata[key] = mutated_json(metadata[key].encode(), rng).decode() if is_json else str(rng.choice(JUNK))
    else:
        name = rng.choice(list(arrays))
        if arrays[name].size and rng.random() < 0.7:
            arrays[name].flat[0] = rng.choice([np.nan, np.inf, 3e38])
        elif rng.random() < 0.5:
            arrays[name] = arrays[name].reshape(-1)[1:]
        else:
            del arrays[name]
    with open(output, "wb") as file:
        tensors.write_with_digest(file, arrays, metadata)


def run(case: int, artifact: Path, data: Path, folder: Path) -> int:
    """The exit code of one case. Raises whatever the command line does not turn into one."""
    rng = random.Random(case)
    kind = rng.choice(["artifact", "artifact", "adapter", "checkpoint"])
    limits = ["--memory-budget", "400MiB", "--threads", "1"]
    if kind == "artifact":
        file = folder / "mutated.s2a"
        mutated_artifact(artifact, file, rng)
        words = rng.choice([["check", file, "--threads", "1"], ["plan", file, *limits]])
    elif kind == "adapter":
        file = folder / "mutated.safetensors"
        mutated_tensors(folder / "run" / "best.safetensors", file, rng)
        words = ["eval", artifact, "--adapter", file, "--data", data, *limits]
    else:
        checkpoint = folder / "mutated" / "checkpoint"
        checkpoint.mkdir(parents=True, exist_ok=True)
        mutated_tensors(folder / "run" / "checkpoint" / "state.safetensors", checkpoint / "state.safetensors", rng)
        words = [
            "train",
            artifact,
            "--data",
            data,
            "--output",
            folder / "mutated",
            "--resume",
            "--epochs",
            "1",
            *limits,
        ]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main([*map(str, words)])
    if code not in (0, 2, 3, 4) or (
        code and not errors.getvalue().splitlines()[-1].startswith(f"edge-s2a {words[0]}:")
    ):
        raise AssertionError(f"exit code {code}: {errors.getvalue()}")
    return code


if __name__ == "__main__":
    artifact, data, folder = map(Path, sys.argv[1:4])
    for case in range(int(sys.argv[4]), int(sys.argv[4]) + int(sys.argv[5])):
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        code = run(case, artifact, data, folder)
        faulthandler.cancel_dump_traceback_later()
        print(case, code, peak_resident_bytes(), flush=True)

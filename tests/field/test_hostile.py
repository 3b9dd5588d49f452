"""Nothing in a file is trusted: whatever is opened, the command ends with an exit code and one message."""

import ast
import collections
import dataclasses
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import onnx
import pytest

from edge_s2a.artifact.archive import MEMBERS, Artifact, digests, graph_member, write_archive
from edge_s2a.artifact.onnx_graph import read_onnx_graph
from tests.helpers.commands import assert_refused, run_command
from tests.helpers.images import write_images
from tests.helpers.paths import PROJECT

PEAK_BYTES = 150 << 20
# What runs on a workstation alone.
HOST_SIDE = {"host", "exporting.py", "quickstart.py"}


def fuzz(artifact, folder, first: int, count: int) -> collections.Counter:
    """Runs tests/field/fuzz.py over `count` cases, from the next one on where it ended at one. Counts exit codes,
    crashes, hangs; `peak_bytes` is the largest of its processes."""
    data = write_images(folder / "data", 4, seed=0)
    options = ["--epochs", "1", "--memory-budget", "400MiB", "--threads", "1"]
    done = run_command("train", artifact, "--data", data, "--output", folder / "run", *options)
    assert done.returncode == 0, done.stderr
    counts, end = collections.Counter(), first + count
    while first < end:
        command = [sys.executable, PROJECT / "tests" / "field" / "fuzz.py", artifact, data, folder, first, end - first]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, check=False)
        for line in done.stdout.splitlines():
            case, code, peak_bytes = map(int, line.split())
            counts[code] += 1
            counts["peak_bytes"] = max(counts["peak_bytes"], peak_bytes)
            first = case + 1
        if done.returncode:
            print(f"case {first}: {done.stderr[-3000:]}")
            counts["hangs" if "Timeout" in done.stderr else "crashes"] += 1
            first += 1
    return counts


def assert_survived(counts, count: int) -> None:
    """Exit code 0 is that of a file which is still whole: a mutation of bytes that mean nothing, or of a value to
    another that is as good: in a quarter of the cases. The budget of each is 400 MiB; this model needs 80."""
    assert counts["crashes"] == counts["hangs"] == 0
    assert counts[0] + counts[2] + counts[3] + counts[4] == count
    assert counts[2] + counts[4] > 0.6 * count
    assert counts["peak_bytes"] < PEAK_BYTES


def test_three_hundred_mutated_files(small_artifact, tmp_path):
    assert_survived(fuzz(small_artifact, tmp_path, 0, 300), 300)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_ten_thousand_mutated_files(small_artifact, tmp_path, soak_table):
    count = int(os.environ.get("EDGE_S2A_MUTATIONS", "10000"))
    counts = fuzz(small_artifact, tmp_path, time.time_ns() % 2**40, count)
    codes = ", ".join(f"{counts[code]} exit code {code}" for code in (0, 2, 3, 4))
    is_over = int(counts["peak_bytes"] >= PEAK_BYTES)
    soak_table(f"mutated files; {codes}", count, 0, counts["crashes"], counts["hangs"], is_over)
    assert_survived(counts, count)


def with_graph(artifact, output, change):
    """The artifact with `change` done to its first graph, an onnx.ModelProto, and right digests."""
    opened = Artifact(artifact)
    members = {name: opened.read(name) for name in opened.manifest.members}
    model = onnx.load_from_string(members[graph_member(0)])
    change(model)
    members[graph_member(0)] = model.SerializeToString()
    write_archive(output, dataclasses.replace(opened.manifest, members=digests(members)), members)
    return output


def read_a_file(model):
    """A constant that lies in a file of the device."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")


def call_foreign_code(model):
    model.graph.node[0].op_type, model.graph.node[0].domain = "PyOp", "ai.onnx.contrib"


def hide_a_graph(model):
    model.graph.node[0].op_type = "If"


def bring_functions(model):
    """A definition of its own for an operator that is allowed."""
    model.functions.add(name="Add", domain="")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (read_a_file, "a constant that lies in another file"),
        (call_foreign_code, "operator ai.onnx.contrib:PyOp"),
        (hide_a_graph, "operator :If"),
        (bring_functions, "functions of its own"),
    ],
)
@pytest.mark.parametrize("command", ["check", "plan"])
def test_a_graph_reaches_no_file_and_no_code(small_artifact, tmp_path, change, message, command):
    path = with_graph(small_artifact, tmp_path / "hostile.s2a", change)
    options = ["--memory-budget", "400MiB"] if command == "plan" else []
    assert_refused(run_command(command, path, *options), 2, message, "repack the model")


@pytest.mark.parametrize(
    "fragment",
    [
        onnx.ModelProto(graph=onnx.GraphProto(node=[onnx.NodeProto(op_type="If")])),
        onnx.ModelProto(graph=onnx.GraphProto(node=[onnx.NodeProto(op_type="Add", domain="ai.onnx.contrib")])),
    ],
)
def test_no_operator_is_smuggled_in_behind_the_graph(small_artifact, fragment):
    """protobuf merges messages that follow each other: the engine would run the nodes of both graphs."""
    model = Artifact(small_artifact).read(graph_member(0))
    both = model + fragment.SerializeToString()
    assert onnx.load_from_string(both).graph.node[-1] == fragment.graph.node[0]
    with pytest.raises(ValueError, match="field 7 is given 2 times"):
        read_onnx_graph(both)


def test_no_operator_hides_behind_another_in_its_node(small_artifact):
    """Of two texts in one field, protobuf takes the last."""
    model = onnx.load_from_string(Artifact(small_artifact).read(graph_member(0)))
    before = model.graph.node[0].SerializeToString()
    both = before + onnx.NodeProto(op_type="If").SerializeToString()
    assert onnx.NodeProto.FromString(both).op_type == "If"
    del model.graph.node[1:]
    with pytest.raises(ValueError, match="field 4 is given 2 times"):
        read_onnx_graph(wrapped(7, wrapped(1, both)))


def wrapped(field: int, message: bytes) -> bytes:
    """The message as that field of another one."""
    size, length = len(message), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([field << 3 | 2]) + length + bytes([size]) + message


def test_every_operator_that_the_packager_writes_is_allowed(small_artifact):
    artifact = Artifact(small_artifact)
    for number in range(artifact.graph_count):
        read_onnx_graph(artifact.read(graph_member(number)))


def test_members_that_lie_over_each_other_are_refused(small_artifact, tmp_path):
    """The directory says that one member begins where another does."""
    data = bytearray(small_artifact.read_bytes())
    with zipfile.ZipFile(small_artifact) as archive:
        first, second = (archive.getinfo(name) for name in MEMBERS[:2])
    place = data.rindex(b"PK\x01\x02", 0, data.rindex(second.filename.encode()))
    data[place + 42 : place + 46] = first.header_offset.to_bytes(4, "little")
    data[place + 20 : place + 28] = first.file_size.to_bytes(4, "little") * 2
    path = tmp_path / "overlapping.s2a"
    path.write_bytes(data)
    assert_refused(run_command("inspect", path), 2, "is not a complete .s2a artifact", "copy or repack it")


def code_that_unpickles(package: Path) -> list[str]:
    """Where a module of the device side, however deep, names pickle or lets numpy use it."""
    found = []
    for path in sorted(package.rglob("*.py")):
        where = path.relative_to(package)
        if where.parts[0] in HOST_SIDE:
            continue
        found += [f"{where}:{node.lineno}" for node in ast.walk(ast.parse(path.read_text())) if unpickles(node)]
    return found


def unpickles(node: ast.AST) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
        return not {"pickle", "marshal", "shelve", "dill"}.isdisjoint(names)
    is_load = isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load")
    return is_load and "allow_pickle=False" not in ast.unparse(node)


def test_no_pickle_on_the_device():
    """Nothing that the device imports of us names pickle, and numpy is told to refuse it."""
    assert code_that_unpickles(PROJECT / "edge_s2a") == []


@pytest.mark.parametrize("place", ["device/policy/deep/x.py", "run/x.py", "cli/new.py", "x.py"])
def test_pickle_would_be_found_wherever_it_is(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    for line in ("import pickle", "from pickle import loads", "def f():\n import marshal", "x = np.load(file)"):
        path.write_text(line)
        (found,) = code_that_unpickles(tmp_path)
        assert found.startswith(f"{place}:")

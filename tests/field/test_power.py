"""Power fails, disks fill up, files rot: a run goes on from its last good checkpoint to the very same result.

Bit for bit: every comparison is of whole files or whole lists, without tolerance.
"""

import os
import resource
import shutil
import signal
import subprocess
import time

import pytest

from tests.helpers.commands import assert_refused, run_command
from tests.helpers.interruption import arguments, assert_survived, has_checkpoint, kill_and_resume, outcome, start
from tests.helpers.runs import metrics_of


@pytest.fixture(scope="module")
def whole_run(small_artifact, image_folder, tmp_path_factory):
    """(folder, seconds) of a run that nothing disturbs."""
    run = tmp_path_factory.mktemp("whole") / "run"
    start_s = time.monotonic()
    done = run_command(*arguments(small_artifact, image_folder, run))
    assert done.returncode == 0, done.stderr
    return run, time.monotonic() - start_s


def assert_same_result(run, whole):
    assert outcome(run) == outcome(whole)


def test_ten_kills_at_random_moments(small_artifact, image_folder, whole_run, tmp_path):
    counts = kill_and_resume(small_artifact, image_folder, whole_run, tmp_path, 10, seed=0)
    assert counts["kills"] == 10
    assert counts["resumed"] >= 3
    assert_survived(counts)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_many_kills_at_random_moments(small_artifact, image_folder, whole_run, tmp_path, soak_table):
    kills = int(os.environ.get("EDGE_S2A_KILLS", "200"))
    counts = kill_and_resume(small_artifact, image_folder, whole_run, tmp_path, kills, seed=time.time_ns())
    soak_table(
        f"SIGKILL while training; {counts['runs']} runs, resumed {counts['resumed']} times", counts["kills"],
        counts["other results"], counts["crashes"], 0, counts["over budget"],
    )  # fmt: skip
    assert_survived(counts)


@pytest.fixture
def stopped_run(small_artifact, image_folder, tmp_path):
    """A run that was told to stop after some steps."""
    run = tmp_path / "run"
    stop(start(small_artifact, image_folder, run), run, signal.SIGTERM)
    return run


def stop(process, run, number, after_steps=3):
    """Sends the signal once that many steps are done, and returns (exit code, standard error)."""
    while process.poll() is None and not (run / "metrics.jsonl").exists():
        time.sleep(0.01)
    while process.poll() is None and len((run / "metrics.jsonl").read_text().splitlines()) < after_steps:
        time.sleep(0.01)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    return process.returncode, stderr


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_used(
    small_artifact, image_folder, whole_run, stopped_run
):
    path = stopped_run / "checkpoint" / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    done = run_command(*arguments(small_artifact, image_folder, stopped_run, "--resume"))
    assert done.returncode == 0
    assert "state.safetensors is damaged: its checksum is wrong; the one before it is used" in done.stderr
    assert_same_result(stopped_run, whole_run[0])


def test_a_torn_checkpoint_is_noticed_and_the_one_before_it_used(small_artifact, image_folder, whole_run, stopped_run):
    path = stopped_run / "checkpoint" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    assert run_command(*arguments(small_artifact, image_folder, stopped_run, "--resume")).returncode == 0
    assert_same_result(stopped_run, whole_run[0])


def test_two_damaged_checkpoints_are_one_clear_error(small_artifact, image_folder, stopped_run):
    for name in ("state.safetensors", "previous.safetensors"):
        (stopped_run / "checkpoint" / name).write_bytes(b"\0" * 100)
    done = run_command(*arguments(small_artifact, image_folder, stopped_run, "--resume"))
    assert_refused(done, 2, "nothing to resume", "state.safetensors", "previous.safetensors", "omit --resume")


def test_metrics_that_end_within_a_line_are_mended(small_artifact, image_folder, whole_run, stopped_run):
    with open(stopped_run / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "epo')
    assert run_command(*arguments(small_artifact, image_folder, stopped_run, "--resume")).returncode == 0
    assert_same_result(stopped_run, whole_run[0])


def test_a_new_run_is_never_taken_for_the_old_one(small_artifact, image_folder, stopped_run):
    """It starts at step 1 and forgets the old checkpoints before it has one of its own."""
    before = {path: path.stat().st_mtime_ns for path in (stopped_run / "checkpoint").iterdir()}
    process = start(small_artifact, image_folder, stopped_run)
    while process.poll() is None and any(path.exists() and path.stat().st_mtime_ns == t for path, t in before.items()):
        time.sleep(0.01)
    returncode, _ = stop(process, stopped_run, signal.SIGINT)
    assert returncode == 130
    assert metrics_of(stopped_run)[0]["step"] == 1


def test_the_second_trainer_on_a_folder_is_refused(small_artifact, image_folder, whole_run, tmp_path):
    run = tmp_path / "run"
    process = start(small_artifact, image_folder, run)
    while process.poll() is None and not (run / "metrics.jsonl").exists():
        time.sleep(0.01)
    second = run_command(*arguments(small_artifact, image_folder, run))
    _, stderr = process.communicate(timeout=120)
    assert_refused(second, 2, "another process is training into", run)
    assert process.returncode == 0, stderr
    assert_same_result(run, whole_run[0])


def test_a_full_disk_ends_with_one_error_and_the_run_goes_on_later(
    small_artifact, image_folder, whole_run, stopped_run
):
    """No file may grow beyond 8 kB: as a full disk, but for what is there already."""
    done = run_command(
        *arguments(small_artifact, image_folder, stopped_run, "--resume"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
    )
    assert_refused(done, 2, "cannot write", "free space or choose another place")
    assert run_command(*arguments(small_artifact, image_folder, stopped_run, "--resume")).returncode == 0
    assert_same_result(stopped_run, whole_run[0])


@pytest.fixture
def read_only():
    """Makes folders read-only, for root too, until the test ends: as a card that the kernel no longer trusts."""
    if os.getuid():
        pytest.skip("mounting a folder read-only needs root")
    mounted = []

    def make(folder):
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        mounted.append(folder)
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)

    yield make
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def test_a_read_only_run_folder_ends_with_one_error_and_the_run_goes_on_elsewhere(
    small_artifact, image_folder, whole_run, stopped_run, tmp_path, read_only
):
    read_only(stopped_run)
    for more in (["--resume"], []):
        done = run_command(*arguments(small_artifact, image_folder, stopped_run, *more))
        assert_refused(done, 2, f"cannot write to folder {stopped_run}", "choose another --output")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(stopped_run, elsewhere)
    assert run_command(*arguments(small_artifact, image_folder, elsewhere, "--resume")).returncode == 0
    assert_same_result(elsewhere, whole_run[0])


def test_a_run_folder_that_becomes_read_only_while_training(
    small_artifact, image_folder, whole_run, tmp_path, read_only
):
    run = tmp_path / "run"
    process = start(small_artifact, image_folder, run)
    while not has_checkpoint(run):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    read_only(run)
    process.send_signal(signal.SIGCONT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "cannot write" in stderr
    assert "Traceback" not in stderr
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run, elsewhere)
    assert run_command(*arguments(small_artifact, image_folder, elsewhere, "--resume")).returncode == 0
    assert_same_result(elsewhere, whole_run[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_validating_is_obeyed_at_once(small_artifact, tmp_path, image_folder, number):
    """With so many validation images that waiting for their end would fail the test."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "train").symlink_to(image_folder / "train")
    for folder in sorted((image_folder / "val").iterdir()):
        (data / "val" / folder.name).mkdir(parents=True)
        for copy in range(4000):
            os.link(folder / "000.png", data / "val" / folder.name / f"{copy}.png")
    run = tmp_path / "run"
    process = start(small_artifact, data, run)
    while process.poll() is None and not (run / "checkpoint" / "previous.safetensors").exists():
        time.sleep(0.01)
    time.sleep(1)
    start_s = time.monotonic()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "a checkpoint was written, --resume continues" in stderr
    assert time.monotonic() - start_s < 5

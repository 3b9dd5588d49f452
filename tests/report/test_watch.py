"""`watch` on the files of a run: what a frame says, and what a terminal must never get."""

import dataclasses
import json
import os
import signal
import time

import pytest

from edge_s2a.run.frame import frame
from edge_s2a.run.reader import GrowingLines
from edge_s2a.run.text import columns, rendered, sparkline
from edge_s2a.run.view import open_view, refreshed
from tests.helpers.commands import assert_refused, run_command
from tests.helpers.sample_run import EPOCHS, STEPS, sample_facts, write_sample
from tests.report.terminal import on_a_terminal


def text_of(view, width=80, height=24, now_s=None, is_coloured=False):
    lines = frame(view, width, height, time.time() if now_s is None else now_s)
    return "\n".join(rendered(line, is_coloured) for line in lines)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Half of its steps are done."""
    return write_sample(tmp_path_factory.mktemp("running") / "run", steps=STEPS // 2, is_finished=False)


def test_a_frame_says_where_the_run_is(running):
    text = text_of(open_view(running), width=100)
    assert "deit_tiny_patch16_224 bias+lowrank" in text
    assert "running" in text
    assert f"{STEPS // 2}/{STEPS}  epoch 6/{EPOCHS}" in text
    assert " left" in text
    assert "val 74.8 %" in text
    assert "images/s" in text
    assert "of 192.0 MiB  planned 190.3" in text
    assert "°C  rests from 80 °C" in text
    assert "back to the best adapter with 0.5 of the learning rate" in text


def test_a_finished_run_says_so_in_one_frame(tmp_path):
    run = write_sample(tmp_path / "run")
    done = run_command("watch", run, "--once")
    assert done.returncode == 0, done.stderr
    assert "finished" in done.stdout
    assert f"{STEPS}/{STEPS}" in done.stdout
    assert " left" not in done.stdout
    assert "\x1b" not in done.stdout


def test_without_a_terminal_there_is_one_frame_also_of_a_run_that_goes_on(running):
    done = run_command("watch", running, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("deit_tiny_patch16_224") == 1


def test_json_has_what_the_frame_shows(running):
    values = run_command("watch", running, "--json").json
    assert values["state"] == "running"
    assert (values["steps"], values["total_steps"]) == (STEPS // 2, STEPS)
    assert values["step"]["step"] == STEPS // 2
    assert values["budget_bytes"] == 192 << 20


@pytest.mark.parametrize("width", [24, 40, 80, 132])
def test_a_frame_fits_its_terminal(tmp_path, width):
    run = write_sample(tmp_path / "run", is_finished=False)
    facts = sample_facts(run, ["日本語の花"])
    facts["artifact"]["model"] = "日本語" * 40
    (run / "run.json").write_text(json.dumps(facts))
    lines = frame(open_view(run), width, 12, time.time())
    assert len(lines) <= 12
    assert all(columns(rendered(line, False)) <= width for line in lines)


def test_a_terminal_gets_nothing_to_obey_from_a_file(running, tmp_path):
    facts = sample_facts(running, [])
    facts["artifact"]["model"] = "\x1b]0;owned\x07\x1b[2J"
    facts["settings"]["data"] = "a\nb\x9bc"
    (tmp_path / "run.json").write_text(json.dumps(facts))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"kind": "skipped", "step": 1, "reason": "\x1b[31mred"}) + "\n")
    text = text_of(open_view(tmp_path), width=120)
    assert all(character.isprintable() for character in text.replace("\n", ""))
    assert "red" in text


def test_it_waits_for_a_run_that_has_written_nothing(tmp_path):
    done = run_command("watch", tmp_path, "--once")
    assert done.returncode == 0
    assert "waiting for the run to start" in done.stdout


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    done = run_command("watch", tmp_path / "nowhere")
    assert_refused(done, 2, tmp_path / "nowhere", "neither a folder nor a knowledge file")


def test_silence_is_said(running):
    assert "no news for 1:0" in text_of(open_view(running), now_s=time.time() + 3600)


def test_time_left_is_at_the_pace_since_this_process_started(running):
    view = open_view(running)
    view.facts = dataclasses.replace(view.facts, resumed_at_step=20, started="2026-01-01T00:00:00+00:00")
    view.changed_s = 1767225600 + 500  # 100 steps in 500 s
    assert view.seconds_left() == pytest.approx(5 * (STEPS - STEPS // 2))


def test_a_view_follows_a_file_that_grows_and_a_run_that_starts_anew(tmp_path):
    source = write_sample(tmp_path / "source", steps=60, is_finished=False)
    run = tmp_path / "run"
    run.mkdir()
    whole = (source / "metrics.jsonl").read_bytes()
    (run / "run.json").write_bytes((source / "run.json").read_bytes())
    half = len(whole) // 2
    (run / "metrics.jsonl").write_bytes(whole[:half])
    view = open_view(run)
    early = view.steps
    assert 0 < early < 60
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(whole[half:])
    view = refreshed(view)
    assert view.steps == 60
    assert len(view.losses) == sum(b'"kind": "step"' in line for line in whole.splitlines())

    facts = json.loads((run / "run.json").read_text())
    (run / "metrics.jsonl").write_bytes(b"")
    (run / "run.json").write_text(json.dumps({**facts, "started": "2026-03-15T00:00:00+00:00"}))
    view = refreshed(view)
    assert view.steps == 0
    assert view.events == []


@pytest.mark.parametrize(
    "torn",
    [b'{"kind": "step", "st', b"\xff\xfe\n", b"[1, 2]\n", b"[" * 5000 + b"\n", b'{"kind": "step", "loss": NaN}\n'],
)
def test_a_line_that_is_torn_is_passed_over(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    good = b'{"kind": "rest", "step": 1}\n'
    path.write_bytes(good + torn)
    lines = GrowingLines(path)
    assert [line["step"] for line in lines.new() if line["kind"] == "rest"] == [1]
    if torn.endswith(b"\n"):
        with open(path, "ab") as file:
            file.write(good)
        assert len(list(lines.new())) == 1


def test_a_line_is_taken_once_it_has_its_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": ')
    lines = GrowingLines(path)
    assert list(lines.new()) == []
    with open(path, "ab") as file:
        file.write(b"1}\n")
    assert list(lines.new()) == [{"a": 1}]


def test_a_sparkline_falls_as_the_loss_does():
    from array import array

    assert sparkline(array("f", [8, 8, 7, 6, 5, 4, 3, 2, 1]), 9)[0] == "█"
    assert sparkline(array("f", range(1000)), 10) == "".join(sorted(sparkline(array("f", range(1000)), 10)))
    assert len(sparkline(array("f", range(1000)), 10)) == 10
    assert sparkline(array("f"), 10) == ""
    assert sparkline(array("f", [1, 1]), 10) == "▁▁"


# -- on a terminal -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [
        lambda process, keyboard: os.write(keyboard, b"q"),
        lambda process, keyboard: process.send_signal(signal.SIGINT),
        lambda process, keyboard: process.send_signal(signal.SIGTERM),
    ],
    ids=["q", "interrupt", "terminate"],
)
def test_it_leaves_the_terminal_as_it_was_and_the_last_frame_on_it(running, act):
    text, code = on_a_terminal(running, act)
    assert code == 0
    before, after = text.split("\x1b[?1049l")
    assert before.startswith("\x1b[?1049h")
    assert "\x1b[?25h" in before  # the cursor is back
    assert "deit_tiny_patch16_224" in after
    assert "\x1b[36m" in text


def test_no_colour_where_none_is_wanted(running):
    text, _ = on_a_terminal(running, lambda process, keyboard: os.write(keyboard, b"q"), NO_COLOR="1")
    assert "\x1b[3" not in text


def test_it_ends_with_the_run(tmp_path):
    run = write_sample(tmp_path / "run", is_finished=False)
    summary = json.dumps({"steps": STEPS, "peak_rss_bytes": 180 << 20})
    text, code = on_a_terminal(run, lambda process, keyboard: (run / "summary.json").write_text(summary))
    assert code == 0
    assert "finished" in text.split("\x1b[?1049l")[1]

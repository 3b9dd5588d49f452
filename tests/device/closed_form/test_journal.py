"""Features that were read survive whatever ends the process: rows are compared byte by byte."""

import os
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edge_s2a.device.closed_form.journal as journals
from edge_s2a.artifact.learning_files import JOURNAL_HEADER, JOURNAL_PREFIX
from edge_s2a.artifact.rows import pick
from edge_s2a.device.closed_form.journal import Journal
from edge_s2a.errors import UserError
from tests.device.closed_form.images import digest_of, images_of, layout_of

LAYOUT = layout_of("int8")
COUNT = 6
RECORD = JOURNAL_PREFIX.size + LAYOUT.row_bytes
ROWS = images_of(range(COUNT), [0] * COUNT, LAYOUT).codes


def write(path, count=COUNT, layout=LAYOUT, identity="model"):
    journal = Journal(path, layout, identity)
    for number in range(count):
        journal.append(digest_of(number), ROWS[number])
    return journal


def found(journal):
    """{number: row} of the images that the journal has."""
    numbers = {number: journal.find(digest_of(number)) for number in range(COUNT)}
    return {
        number: journal.rows[place : place + 1][0].tobytes() for number, place in numbers.items() if place is not None
    }


def expected(numbers):
    return {number: ROWS[number].tobytes() for number in numbers}


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_is_appended_is_found(tmp_path, on_disk):
    journal = write(tmp_path / "j" if on_disk else None)
    assert len(journal) == COUNT
    assert found(journal) == expected(range(COUNT))
    assert journal.find(digest_of(COUNT)) is None
    np.testing.assert_array_equal(journal.rows[1:4], ROWS[1:4])
    np.testing.assert_array_equal(pick([journal.rows], np.array([4, 0, 1]))[0:3], ROWS[[4, 0, 1]])


def test_it_goes_on_where_it_ended(tmp_path):
    write(tmp_path / "j", 3)
    again = Journal(tmp_path / "j", LAYOUT, "model")
    assert found(again) == expected(range(3))
    for number in range(3, COUNT):
        again.append(digest_of(number), ROWS[number])
    assert found(again) == expected(range(COUNT))
    assert again.problem is None


def test_a_record_that_was_cut_off_is_as_if_it_had_not_been_written(tmp_path):
    path = tmp_path / "j"
    write(path)
    size = path.stat().st_size
    for cut in range(1, 2 * RECORD):
        os.truncate(path, size - cut)
        left = COUNT - -(-cut // RECORD)
        journal = Journal(path, LAYOUT, "model")
        assert found(journal) == expected(range(left))
        for number in range(left, COUNT):
            journal.append(digest_of(number), ROWS[number])
        assert found(journal) == expected(range(COUNT))
        assert path.stat().st_size == size
        del journal


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(JOURNAL_HEADER.size, JOURNAL_HEADER.size + COUNT * RECORD - 1), bit=st.integers(0, 7))
def test_a_record_that_the_disk_changed_is_not_found_and_the_others_are(tmp_path, place, bit):
    path = tmp_path / "j"
    path.unlink(missing_ok=True)
    write(path)
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)
    wrong = (place - JOURNAL_HEADER.size) // RECORD
    assert found(Journal(path, LAYOUT, "model")) == expected(set(range(COUNT)) - {wrong})


@pytest.mark.parametrize(
    ("layout", "identity"),
    [(layout_of(), "model"), (LAYOUT, "another"), (layout_of("int8", {"early:mean": 7, "late:mean": 5}), "model")],
)
def test_features_of_another_model_are_set_aside(tmp_path, layout, identity):
    path = tmp_path / "j"
    write(path)
    before = path.read_bytes()
    journal = Journal(path, layout, identity)
    assert len(journal) == 0
    assert "holds no features of this artifact; it is now j.old" in journal.problem
    assert (tmp_path / "j.old").read_bytes() == before


@pytest.mark.parametrize("data", [b"x", b"photo" * 100, bytes(200)])
def test_a_file_that_is_no_journal_is_set_aside(tmp_path, data):
    (tmp_path / "j").write_bytes(data)
    journal = write(tmp_path / "j")
    assert found(journal) == expected(range(COUNT))
    assert (tmp_path / "j.old").read_bytes() == data


def test_rows_in_use_outlive_the_file(tmp_path):
    journal = write(tmp_path / "j")
    rows = journal.rows
    journal.remove()
    assert not (tmp_path / "j").exists()
    np.testing.assert_array_equal(rows[0:COUNT], ROWS)
    journal.remove()


def test_two_processes_do_not_write_one_journal(tmp_path):
    journal = write(tmp_path / "j", 1)
    with pytest.raises(UserError, match="another process is writing"):
        Journal(tmp_path / "j", LAYOUT, "model")
    assert len(journal) == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*nowhere"):
        Journal(tmp_path / "nowhere" / "j", LAYOUT)
    with pytest.raises(UserError, match="cannot write"):
        Journal(tmp_path, LAYOUT)


def test_a_full_disk_is_said_so_and_leaves_what_was_there(tmp_path, monkeypatch):
    journal = write(tmp_path / "j", 2)
    write_at, room = journals.write_at, [RECORD - 3]

    def full(descriptor, data, offset):
        count = min(len(data), room[0])
        if not count:
            raise OSError(28, "No space left on device")
        room[0] -= count
        return write_at(descriptor, data[:count], offset)

    monkeypatch.setattr(journals, "write_at", full)
    with pytest.raises(UserError, match="No space left on device"):
        journal.append(digest_of(2), ROWS[2])
    assert found(journal) == expected(range(2))
    monkeypatch.undo()
    journal.append(digest_of(3), ROWS[3])
    assert found(journal) == expected([0, 1, 3])


def test_a_system_without_a_temporary_folder_is_one_error(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(UserError, match="cannot write a temporary file: No such file"):
        Journal(None, LAYOUT)

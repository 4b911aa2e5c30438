"""Files and folders are whole, or as they were before."""

import errno
import os
import signal

import pytest

from ppo_lm.errors import StorageError
from ppo_lm.saving import whole_folder, write_text
from tests.conftest import killed_in_a_removal

pytestmark = pytest.mark.fast


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_folder_replaces_the_old_one_once_it_is_whole(tmp_path):
    place = tmp_path / "model"
    for content in ("old", "new"):
        with whole_folder(place) as folder:
            (folder / "weights").write_text(content)
            if content == "new":
                assert (place / "weights").read_text() == "old"
    assert (place / "weights").read_text() == "new"
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("late", [False, True], ids=["while written", "while flushed"])
def test_a_folder_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch, late):
    place = tmp_path / "model"
    place.mkdir()
    (place / "weights").write_text("old")
    (tmp_path / ".model.unfinished").mkdir()  # of a process that was killed
    if late:
        monkeypatch.setattr(os, "fsync", full)

    def save():
        with whole_folder(place) as folder:
            (folder / "weights").write_text("new")
            if not late:
                full()

    with pytest.raises(StorageError, match="model cannot be written: No space left on device"):
        save()
    assert (place / "weights").read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


def save_twice(place):
    for content in ("old", "new"):
        with whole_folder(place) as folder:
            (folder / "head").write_text(content)
            (folder / "weights").write_text(content)


def test_a_folder_is_whole_when_the_process_is_killed_while_it_removes_the_old_one(tmp_path):
    place = tmp_path / "model"
    assert killed_in_a_removal(2, save_twice, place) == -signal.SIGKILL
    assert {path.name: path.read_text() for path in place.iterdir()} == {"head": "new", "weights": "new"}
    save_twice(place)
    assert list(tmp_path.iterdir()) == [place]


def test_a_file_that_cannot_be_replaced_stays_and_nothing_is_left_beside_it(tmp_path, monkeypatch):
    write_text(tmp_path / "report.md", "old")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="report.md cannot be written: No space left on device"):
        write_text(tmp_path / "report.md", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    assert (tmp_path / "report.md").read_text() == "old"

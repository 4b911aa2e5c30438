"""Which folders count as checkpoints of a run, and which are removed."""

import json
import math
import shutil
import signal

import pytest
import torch

from ppo_lm.run import Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from ppo_lm.run.checkpoint import finish_checkpoints, is_finished, last_intact_checkpoint
from tests.conftest import killed_in_a_removal

pytestmark = pytest.mark.fast


def save(run, step, keep=2):
    return save_checkpoint(run, step, Checkpoint({"w": torch.ones(3) * step}, {"step": step, "parts": {"w": {}}}), keep)


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def truncate(folder):
    file = folder / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


FOREIGN = ["step-old", "step-000100", "step-1", "notes"]


@pytest.fixture
def foreign(tmp_path):
    """A run's folder with folders that are not the run's: one is empty, the others hold a user's file."""
    for name in FOREIGN:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        if name != "step-000100":
            (tmp_path / "checkpoints" / name / "mine.txt").write_text("mine")
    return tmp_path


def test_foreign_folders_do_not_count_are_not_loaded_and_stay(foreign):
    for step in (1, 2, 3):
        save(foreign, step)
    assert names(foreign) == sorted([*FOREIGN, "step-000002", "step-000003"])
    checkpoint, damage = load_checkpoint(foreign)
    assert checkpoint.state["step"] == 3 and damage == []
    finish_checkpoints(foreign)
    assert names(foreign) == sorted([*FOREIGN, "step-000003"])
    assert (foreign / "checkpoints" / "step-old" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "harm", [truncate, lambda folder: (folder / "manifest.json").unlink()], ids=["sum", "manifest"]
)
def test_damaged_checkpoints_do_not_count_so_the_last_good_one_stays(tmp_path, harm):
    good = save(tmp_path, 1)
    for step in (2, 3):
        harm(save(tmp_path, step))
    assert good.exists() and last_intact_checkpoint(tmp_path) == good
    newest = save(tmp_path, 4)
    assert good.exists() and last_intact_checkpoint(tmp_path) == newest
    harm(newest)
    assert load_checkpoint(tmp_path)[0].state["step"] == 1


def test_a_state_may_hold_what_json_cannot_say(tmp_path):
    numbers = {"kl": [math.inf, {"a": (-math.inf, 1.5)}], "monitor": math.nan}
    place = save_checkpoint(tmp_path, 1, Checkpoint({"w": torch.ones(3)}, {"step": 1, "parts": {"w": numbers}}))

    def refuse(constant):
        raise AssertionError(constant)

    json.loads((place / "state.json").read_text(), parse_constant=refuse)
    found = load_checkpoint(tmp_path)[0].state["parts"]["w"]
    assert found["kl"] == [math.inf, {"a": [-math.inf, 1.5]}]
    assert math.isnan(found["monitor"])


def test_with_one_to_keep_it_is_the_new_one_whatever_else_is_there(tmp_path):
    later = save(tmp_path, 100)
    new = save(tmp_path, 5, keep=1)
    assert new.exists() and not later.exists()


def test_checkpoints_are_ordered_by_number_and_not_by_name(tmp_path):
    saved = [save(tmp_path, step, keep=9) for step in (999_999, 999_999, 1_000_000)]
    assert list_checkpoints(tmp_path) == saved
    assert saved[1].name == "step-999999-002"
    assert load_checkpoint(tmp_path)[0].state["step"] == 1_000_000


def test_what_is_intact_is_not_read_again_to_keep_fewer_than_there_may_be(tmp_path, monkeypatch):
    saved = save(tmp_path, 1)
    monkeypatch.setattr("ppo_lm.run.checkpoint._damage", lambda folder: pytest.fail(f"{folder} was read"))
    save(tmp_path, 2)
    shutil.rmtree(saved)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_checkpoint_whose_removal_was_killed_is_gone_after_the_next(tmp_path, number):
    for step in (1, 2):
        save(tmp_path, step)
    assert killed_in_a_removal(number, save, tmp_path, 3) == -signal.SIGKILL
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step-000002", "step-000003"]
    save(tmp_path, 4)
    assert names(tmp_path) == ["step-000003", "step-000004"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_run_killed_while_older_checkpoints_are_removed_is_not_finished_yet(tmp_path, number):
    for step in (1, 2):
        save(tmp_path, step)
    assert killed_in_a_removal(number, finish_checkpoints, tmp_path) == -signal.SIGKILL
    assert not load_checkpoint(tmp_path)[0].finished
    last = finish_checkpoints(tmp_path)
    assert names(tmp_path) == ["step-000002"] and is_finished(last)

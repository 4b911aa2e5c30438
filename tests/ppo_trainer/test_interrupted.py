"""Runs that are killed, asked to stop, or whose checkpoints are damaged."""

import asyncio
import os
import random
import shutil
import signal
import threading

import pytest

from ppo_lm import signals
from ppo_lm.errors import CheckpointError, Interrupted, RunPaused
from ppo_lm.run import load_checkpoint
from tests.conftest import in_a_process
from tests.ppo_trainer.conftest import PROMPTS, Signals, end_alike, make, train


@pytest.mark.parametrize(
    ("call", "step"), [(1, "step-000000"), (3, "step-000000"), (4, "step-000000"), (8, "step-000002")]
)
def test_a_run_killed_inside_a_step_continues_bit_for_bit(folder, undisturbed, tmp_path, call, step):
    """The calls of the reward are: e e 1 2 e e 3 4 e e 5 e e; a checkpoint is saved before step 1 and after steps 2 and
    4."""
    parts = tmp_path / "parts"
    expected, whole = undisturbed(Signals, save_every=2)
    assert in_a_process(train, folder, parts, Signals(call, signal.SIGKILL), save_every=2) == -signal.SIGKILL
    if call == 1:  # in the first evaluation: there is nothing to resume from yet, and the error says so
        with pytest.raises(CheckpointError, match="there is no checkpoint in it"):
            make(folder, parts, Signals(), save_every=2).train(PROMPTS, resume=parts)
        return
    assert sorted(path.name for path in (parts / "checkpoints").iterdir())[-1] == step
    assert make(folder, parts, Signals(), save_every=2).train(PROMPTS, resume=parts) == expected
    end_alike(parts, whole)


class AsyncJudge:
    """A reward by length, answered out of order; in its `at`-th call a thread kills the process at a random moment
    after that."""

    def __init__(self, at=0):
        self.calls, self.at = 0, at

    async def __call__(self, prompts, completions):
        self.calls += 1
        if self.calls == self.at:
            threading.Timer(random.uniform(0, 0.1), os.kill, (os.getpid(), signal.SIGKILL)).start()
        return await asyncio.gather(*(self.one(place, completion) for place, completion in enumerate(completions)))

    async def one(self, place, completion):
        await asyncio.sleep(0.001 * (7 - place % 7))
        return len(completion) / 10


def test_twelve_steps_killed_after_the_third_and_the_seventh_end_like_twelve_undisturbed(folder, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = dict(steps=12, save_every=1, eval_every=0, save_merged=True)
    expected = make(folder, whole, AsyncJudge(), **settings).train(PROMPTS)
    for call, resume in ((6, None), (5, parts)):  # after two evaluations and step 3, and after steps 4 to 7
        assert in_a_process(train, folder, parts, AsyncJudge(call), resume=resume, **settings) == -signal.SIGKILL
    assert make(folder, parts, AsyncJudge(), **settings).train(PROMPTS, resume=parts) == expected
    end_alike(parts, whole)
    files = {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*.safetensors")}
    assert len(files) > 1 and files == {
        path.relative_to(parts): path.read_bytes() for path in parts.rglob("*.safetensors")
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_step_end_and_saves(folder, undisturbed, tmp_path, number):
    parts = tmp_path / "parts"
    before = signal.getsignal(number)
    expected, whole = undisturbed(Signals, save_every=2)
    with pytest.raises(
        RunPaused, match=rf"{number.name} was received\nThe run was saved as it was after step 2; continue with:"
    ) as paused:
        make(folder, parts, Signals(4, number), save_every=2).train(PROMPTS)
    assert paused.value.exit_code == 75
    assert signal.getsignal(number) is before
    assert make(folder, parts, Signals(), save_every=2).train(PROMPTS, resume=parts) == expected
    end_alike(parts, whole)


def test_a_second_signal_acts_at_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "DOUBLED", 0.0)

    class Twice(Signals):
        def __call__(self, prompts, completions):
            scores = super().__call__(prompts, completions)
            if self.calls == self.at:
                signal.raise_signal(self.number)
            return scores

    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell may have started the tests with SIGINT ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            make(folder, tmp_path / "run", Twice(4, signal.SIGINT)).train(PROMPTS)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_in_the_first_evaluation_saves_what_it_found(folder, undisturbed, tmp_path):
    parts, again = tmp_path / "parts", Signals()
    expected, whole = undisturbed(Signals, save_every=2)
    with pytest.raises(RunPaused, match="SIGTERM was received\nThe run was saved as it was after step 0"):
        make(folder, parts, Signals(1, signal.SIGTERM), save_every=2).train(PROMPTS)
    assert make(folder, parts, again, save_every=2).train(PROMPTS, resume=parts) == expected
    assert again.calls == 11  # of 13: the two of the first evaluation are not repeated
    end_alike(parts, whole)


def test_a_signal_that_comes_in_the_last_step_changes_nothing(folder, undisturbed, tmp_path):
    make(folder, tmp_path / "run", Signals(11, signal.SIGTERM), save_every=2).train(PROMPTS)
    end_alike(tmp_path / "run", undisturbed(Signals, save_every=2)[1])


def test_without_a_folder_a_signal_ends_the_run_with_a_sentence(folder):
    with pytest.raises(Interrupted, match="SIGTERM was received; the run was not saved, because output_dir is not set"):
        make(folder, "", Signals(4, signal.SIGTERM), output_dir=None).train(PROMPTS)


@pytest.fixture(scope="module")
def two_checkpoints(folder, tmp_path_factory):
    """A run that was paused after step 4 and has a checkpoint of step 2 as well."""
    out = tmp_path_factory.mktemp("paused") / "run"
    with pytest.raises(RunPaused):
        make(folder, out, Signals(8, signal.SIGTERM), save_every=2).train(PROMPTS)
    return out


def truncate(file):
    file.write_bytes(file.read_bytes()[:-7])


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [truncate, flip_a_bit, lambda file: file.write_bytes(b""), os.remove],
    ids=["truncated", "a bit flipped", "emptied", "deleted"],
)
@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(two_checkpoints, tmp_path, name, harm):
    run = tmp_path / "run"
    shutil.copytree(two_checkpoints, run)
    whole, none = load_checkpoint(run)
    assert whole.state["step"] == 4 and none == []
    harm(run / "checkpoints" / "step-000004" / name)
    checkpoint, damage = load_checkpoint(run)
    assert checkpoint.state["step"] == 2
    assert len(damage) == 1 and "step-000004 is damaged" in damage[0]
    harm(run / "checkpoints" / "step-000002" / name)
    with pytest.raises(CheckpointError, match="all checkpoints in it are damaged; start a new run"):
        load_checkpoint(run)


def test_a_run_with_a_damaged_checkpoint_continues_from_the_one_before_and_says_so(
    folder, undisturbed, two_checkpoints, tmp_path, capsys
):
    run = tmp_path / "run"
    expected, whole = undisturbed(Signals, save_every=2)
    shutil.copytree(two_checkpoints, run)
    truncate(run / "checkpoints" / "step-000004" / "tensors.safetensors")
    capsys.readouterr()
    assert make(folder, run, Signals(), save_every=2).train(PROMPTS, resume=run) == expected
    assert "step-000004 is damaged: tensors.safetensors does not match its checksum" in capsys.readouterr().out
    end_alike(run, whole)

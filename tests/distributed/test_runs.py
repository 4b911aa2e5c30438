"""Whole runs in two processes: what disturbs one of them, and how the run goes on."""

import json
import os
import signal

import pytest
import torch

from ppo_lm.distributed import processes
from ppo_lm.errors import ConfigError, RunPaused, StorageError
from ppo_lm.ppo_trainer import ModelTrainer
from ppo_lm.tracking import Recorder
from tests.distributed.conftest import in_processes
from tests.ppo_trainer.conftest import PROMPTS, WEIGHTS, Fails, Signals, end_alike, make, metrics

SETTINGS = dict(steps=4, save_every=2)


def train(folder, out, reward, resume=None, at=None, recorders=(), **settings):
    """`at`: (process, step, what to do there)."""
    trainer = make(folder, out, reward, **{**SETTINGS, **settings})
    if at is not None:
        rank, step, disturb = at
        done, ppo_step = [0], trainer.ppo_step

        def disturbed(batch):
            done[0] += 1
            if processes().place.rank == rank and done[0] == step:
                disturb()
            return ppo_step(batch)

        trainer.ppo_step = disturbed
    trainer.train(PROMPTS, resume=resume, recorders=recorders)
    return torch.cat([weight.detach().flatten() for weight in trainer.roles.policy.parameters()])


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def short_of_memory():
    """The training passes of this process have no memory for more than 40 tokens."""
    training = ModelTrainer._training

    def cramped(trainer, pairs, model, trained, part_loss):
        def part(micro, size):
            if micro.attention_mask.sum() > 40:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return part_loss(micro, size)

        return training(trainer, pairs, model, trained, part)

    ModelTrainer._training = cramped


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """Two processes that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "run"
    weights = in_processes(2, train, folder, out, Signals())
    assert torch.equal(*weights)
    return out


def nearly_alike(one, other, abs):
    for found, expected in zip(metrics(one), metrics(other), strict=True):
        assert found.keys() == expected.keys()
        for name, value in found.items():
            wanted = pytest.approx(expected[name], rel=abs, abs=abs) if isinstance(value, float) else expected[name]
            assert value == wanted, name
    assert (one / "samples.jsonl").read_text() == (other / "samples.jsonl").read_text()


def test_a_run_is_that_of_one_process(folder, whole, tmp_path):
    in_processes(1, train, folder, tmp_path / "run", Signals())
    nearly_alike(whole, tmp_path / "run", abs=1e-5)
    assert sorted(path.name for path in whole.iterdir()) == sorted(path.name for path in (tmp_path / "run").iterdir())


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_pauses_all_and_the_run_goes_on_bit_for_bit(folder, whole, tmp_path, rank):
    out = tmp_path / "run"
    paused = in_processes(2, train, folder, out, Signals(), at=(rank, 3, terminate))
    assert [type(one) for one in paused] == [RunPaused, RunPaused]
    assert "SIGTERM was received\nThe run was saved as it was after step 3; continue with:" in str(paused[0])
    in_processes(2, train, folder, out, Signals(), resume=out)
    end_alike(out, whole)


@pytest.fixture(scope="module")
def gentle(folder, tmp_path_factory):
    """Two processes that nothing disturbs, with a rate at which rounding does not grow: their folder and weights."""
    out = tmp_path_factory.mktemp("gentle") / "run"
    return out, in_processes(2, train, folder, out, Signals(), learning_rate=1e-3)[0]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3)])
def test_a_checkpoint_is_that_of_any_number_of_processes(folder, gentle, tmp_path, before, after):
    out, (whole, weights) = tmp_path / "run", gentle
    in_processes(before, train, folder, out, Signals(), at=(0, 2, terminate), learning_rate=1e-3)
    done = in_processes(after, train, folder, out, Signals(), resume=out, learning_rate=1e-3)
    assert not any(isinstance(one, Exception) for one in done), done
    torch.testing.assert_close(done[0], weights, rtol=0, atol=1e-6)
    nearly_alike(out, whole, abs=1e-5)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_others_and_nothing_is_lost(folder, whole, tmp_path, rank):
    out = tmp_path / "run"
    ended = in_processes(2, train, folder, out, Signals(), at=(rank, 3, kill))
    assert isinstance(ended[rank], SystemExit)
    survivor = ended[1 - rank]
    assert isinstance(survivor, RunPaused), survivor
    assert str(survivor).startswith("another of the 2 processes ended or cannot be reached (")
    if rank == 1:  # the one that keeps the record has saved the last step
        assert "The run was saved as it was after step 2; continue with:" in str(survivor)
    in_processes(2, train, folder, out, Signals(), resume=out)
    end_alike(out, whole)


def test_a_reward_that_fails_pauses_all(folder, whole, tmp_path):
    out = tmp_path / "run"
    paused = in_processes(2, train, folder, out, Fails(5))
    assert [type(one) for one in paused] == [RunPaused, RunPaused]
    assert "ConnectionError" in str(paused[0])
    in_processes(2, train, folder, out, Fails(), resume=out)
    assert (out / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


class Sometimes:
    """NaN in one call, which only one process makes."""

    calls = 0

    def __call__(self, prompts, completions):
        self.calls += 1
        return [float("nan") if self.calls == 4 else len(text) / 10 for text in completions]


def test_a_number_that_is_nan_drops_the_step_at_all(folder, tmp_path):
    out = tmp_path / "run"
    weights = in_processes(2, train, folder, out, Sometimes())
    assert torch.equal(*weights)
    (dropped,) = [row for row in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if "dropped" in row]
    assert dropped["step"] == 2
    assert (out / "dropped" / "step-000002" / "prompts.json").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_memory_that_runs_out_at_one_process_makes_all_micro_batches_smaller(folder, tmp_path, rank):
    out, large = tmp_path / "run", tmp_path / "large"
    weights = in_processes(2, train, folder, out, Signals(), at=(rank, 2, short_of_memory), mini_batches=1)
    assert torch.equal(*weights)
    in_processes(2, train, folder, large, Signals(), mini_batches=1)
    nearly_alike(out, large, abs=1e-4)
    state = json.loads(next((out / "checkpoints").glob("*/state.json")).read_text())
    assert state["parts"]["budget"]["tokens"] <= 40


class Full(Recorder):
    """Writes to a disk that is full in the second step."""

    def step(self, event):
        if event.step == 2:
            raise StorageError("metrics.jsonl cannot be written: No space left on device")


class Curious(Recorder):
    def step(self, event):
        return "seen enough" if event.step == 2 else None


def test_a_recorder_is_the_first_ones_and_its_error_is_everybodys(folder, tmp_path):
    ended = in_processes(2, train, folder, tmp_path / "run", Signals(), recorders=[Full()])
    assert [type(one) for one in ended] == [StorageError, StorageError]
    weights = in_processes(2, train, folder, tmp_path / "other", Signals(), recorders=[Curious()])
    assert torch.equal(*weights)
    assert [row["step"] for row in metrics(tmp_path / "other") if "evaluation" not in row] == [1, 2]


def test_processes_that_were_started_differently_are_told_so(folder, tmp_path):
    ended = in_processes(2, started_differently, folder, tmp_path / "run")
    for one in ended:
        assert isinstance(one, ConfigError)
        assert "process 1 is not like the first one: learning_rate" in str(one)
    assert not (tmp_path / "run" / "config.yaml").exists()


def started_differently(folder, out):
    rate = 1e-3 if processes().place.rank else 1e-2
    train(folder, out, Signals(), learning_rate=rate)

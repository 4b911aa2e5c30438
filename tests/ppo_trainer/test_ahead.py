"""Batches that are sampled ahead: by which policy, while what goes on, and what a checkpoint keeps of them."""

import signal
import threading

import pytest
import torch

from ppo_lm.errors import RunPaused
from ppo_lm.ppo_trainer import PPOTrainer
from ppo_lm.ppo_trainer.ahead import Rollout, RolloutsAhead
from ppo_lm.rollout import PlainEngine, RolloutEngine, Sampled
from tests.distributed.conftest import in_processes
from tests.ppo_trainer.conftest import PROMPTS, WEIGHTS, Signals, end_alike, make, metrics

WHOLE = dict(top_k=0, top_p=1.0, eval_prompts=0, eval_every=0)


def texts_of(out):
    return (out / "samples.jsonl").read_text().splitlines()


class Noted(RolloutEngine):
    """The policy's own samples; notes the weights they came from, and of how many updates those are."""

    def __init__(self):
        self.seen, self.inner = [], None

    def update_weights(self, policy):
        self.inner = PlainEngine(policy)
        self.weights = torch.cat([weight.detach().flatten() for weight in policy.parameters()])

    def sample(self, *arguments):
        self.seen.append(self.weights)
        sampled = self.inner.sample(*arguments)
        return Sampled(sampled.ids, sampled.logprobs)


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_a_batch_comes_from_the_policy_of_so_many_steps_before(folder, tmp_path, staleness):
    config = make(folder, tmp_path / "run", Signals(), max_staleness=staleness, **WHOLE).config
    engine, trained_at = Noted(), []
    trainer = PPOTrainer(config, reward=Signals(), engine=engine)
    train_models = trainer.model_trainer.train_models

    def noted(pairs, kl_coef):
        trained_at.append(torch.cat([weight.detach().flatten() for weight in trainer.roles.policy.parameters()]))
        return train_models(pairs, kl_coef)

    trainer.model_trainer.train_models = noted
    trainer.train(PROMPTS)
    assert len(engine.seen) == len(trained_at) == config.steps
    for step in range(config.steps):
        assert torch.equal(engine.seen[step], trained_at[max(step - staleness, 0)])
    rows = metrics(tmp_path / "run")
    assert rows[0]["sampler_gap"] < 1e-4
    assert all((row["sampler_gap"] > 1e-3) == (staleness > 0) for row in rows[1:])


class Elsewhere(Noted):
    """As in another process: samples while the policy is trained, which it waits for."""

    is_remote = True

    def __init__(self):
        super().__init__()
        self.trains, self.threads = threading.Event(), []

    def update_weights(self, policy):
        super().update_weights(policy)

    def sample(self, *arguments):
        self.threads.append(threading.current_thread())
        if len(self.threads) > 1:  # the first batch, and the second one while the first is trained on
            assert self.trains.wait(60)
        return super().sample(*arguments)


def test_an_engine_elsewhere_samples_while_the_policy_is_trained(folder, tmp_path):
    """It would wait forever if training waited for it."""
    config = make(folder, tmp_path / "run", Signals(), max_staleness=1, steps=2, **WHOLE).config
    engine = Elsewhere()
    trainer = PPOTrainer(config, reward=Signals(), engine=engine)
    train_models = trainer.model_trainer.train_models

    def training(pairs, kl_coef):
        engine.trains.set()
        return train_models(pairs, kl_coef)

    trainer.model_trainer.train_models = training
    trainer.train(PROMPTS)
    assert len(engine.threads) == 2
    assert threading.main_thread() not in engine.threads


class Forgetful(RolloutEngine):
    """Samples anew in every call, whatever the random numbers: as a server that batches differently."""

    calls = 0

    def update_weights(self, policy):
        self.inner = PlainEngine(policy)

    def sample(self, prompt_ids, prompt_mask, settings, uniforms):
        Forgetful.calls += 1
        uniforms = (uniforms + 0.1 * Forgetful.calls) % 1
        sampled = self.inner.sample(prompt_ids, prompt_mask, settings, uniforms)
        return Sampled(sampled.ids, sampled.logprobs)


@pytest.mark.parametrize("at", [3, 4])
@pytest.mark.parametrize("staleness", [1, 2])
def test_a_resumed_run_trains_on_what_was_sampled_before(folder, tmp_path, staleness, at):
    """The engine would not sample it again."""

    def run(out, reward, resume=None, first=0):
        Forgetful.calls = first
        config = make(folder, out, reward, max_staleness=staleness, steps=5, **WHOLE).config
        PPOTrainer(config, reward=reward, engine=Forgetful()).train(PROMPTS, resume=resume)

    run(tmp_path / "whole", Signals())
    with pytest.raises(RunPaused):
        run(tmp_path / "parts", Signals(at, signal.SIGTERM))
    run(tmp_path / "parts", Signals(), resume=tmp_path / "parts", first=at + staleness)
    end_alike(tmp_path / "parts", tmp_path / "whole")


def test_a_step_that_fails_is_done_again_with_the_same_samples(folder, tmp_path):
    run = dict(max_staleness=1, steps=4, **WHOLE)
    make(folder, tmp_path / "whole", Signals(), **run).train(PROMPTS)

    class Fails(Signals):
        def __call__(self, prompts, completions):
            answers = super().__call__(prompts, completions)
            if self.calls == 3:
                raise ConnectionError("out")
            return answers

    with pytest.raises(RunPaused):
        make(folder, tmp_path / "parts", Fails(), **run).train(PROMPTS)
    make(folder, tmp_path / "parts", Signals(), **run).train(PROMPTS, resume=tmp_path / "parts", allow_changes=True)
    assert (tmp_path / "parts" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def train_ahead(folder, out):
    make(folder, out, Signals(), max_staleness=1, old_logprobs="recomputed", importance_cap=2.0, **WHOLE).train(PROMPTS)


def test_several_processes_sample_the_same_ahead(folder, tmp_path):
    for size in (1, 2):
        in_processes(size, train_ahead, folder, tmp_path / str(size))
    assert texts_of(tmp_path / "1") == texts_of(tmp_path / "2")


@pytest.mark.fast
def test_rollouts_survive_a_checkpoint_in_order():
    ahead, restored = RolloutsAhead(torch.device("cpu")), RolloutsAhead(torch.device("cpu"))
    mask = torch.tensor([[False, True], [True, True]])
    for number in range(12):
        ids = torch.tensor([[0, number], [1, 2]])
        sampled = Sampled(ids + 1, torch.full((2, 2), float(number)), support_ids=ids[:, :, None])
        ahead.add(lambda ids=ids, sampled=sampled: Rollout(ids, mask, sampled))
    restored.load_state_dict(ahead.state_dict())
    for number in range(12):
        found = restored.take([[number], [1, 2]])
        assert found.sampled.logprobs.unique().item() == number
        assert found.sampled.entropies is None and found.sampled.support_ids.shape == (2, 2, 1)
    assert restored.take([[1]]) is None
    with pytest.raises(ValueError, match="not those that were sampled ahead"):
        ahead.take([[3], [1, 2]])

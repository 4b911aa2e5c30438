"""Runs of a small model, what they leave behind, what disturbs them; and single updates."""

import json
import os

import pytest
import torch

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.base_setup import set_up_roles
from ppo_lm.ppo_trainer import ModelTrainer
from tests.conftest import make_base, make_pairs

PROMPTS = [f"SUBREDDIT: r/advice TITLE: My boss number {n} TL;DR:" for n in range(12)]

COSTS = ("tokens_per_second", "sampled_tokens_per_second", "peak_memory_mib")

WEIGHTS = "adapter/adapter_model.safetensors"


def make(folder, out, reward, **settings):
    defaults = dict(
        model_name=folder,
        batch_size=4,
        mini_batches=2,
        ppo_epochs=2,
        micro_batch_tokens=60,
        steps=5,
        eval_prompts=2,
        eval_every=2,
        samples_every=1,
        learning_rate=1e-2,
        output_dir=str(out),
        save_merged=False,
    )
    return PPOTrainer(PPOConfig(**{**defaults, **settings}), reward=reward)


def train(*arguments, resume=None, **settings):
    """`make` and its run, for a separate process."""
    make(*arguments, **settings).train(PROMPTS, resume=resume)


def metrics(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if not name.startswith(("seconds", "floor")) and name not in COSTS}
        for row in rows
    ]


class Fails:
    """A reward that fails once, at its `at`-th call."""

    def __init__(self, at=0):
        self.calls, self.at = 0, at

    def __call__(self, prompts, completions):
        self.calls += 1
        if self.calls == self.at:
            raise ConnectionError("out")
        return [len(c) / 10 for c in completions]


class Signals:
    """A reward by length that sends its own process a signal at its `at`-th call, and then answers."""

    def __init__(self, at=0, number=None):
        self.calls, self.at, self.number = 0, at, number

    def __call__(self, prompts, completions):
        self.calls += 1
        if self.calls == self.at:
            os.kill(os.getpid(), self.number)
        return [len(c) / 10 for c in completions]


@pytest.fixture(scope="session")
def undisturbed(folder, tmp_path_factory):
    """`undisturbed(reward, **settings)`: what the run that `make` makes with them returns, and its folder. Each is run
    once; `reward` is the class of one that disturbs nothing."""
    done = {}

    def run(reward, **settings):
        key = reward, repr(settings)
        if key not in done:
            out = tmp_path_factory.mktemp("undisturbed") / "run"
            done[key] = make(folder, out, reward(), **settings).train(PROMPTS), out
        return done[key]

    return run


def end_alike(parts, whole):
    assert (parts / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert metrics(parts) == metrics(whole)
    assert (parts / "samples.jsonl").read_text() == (whole / "samples.jsonl").read_text()


FOUR_PROMPTS = [
    "SUBREDDIT: r/advice TITLE: My boss TL;DR:",
    "POST: I moved out. TL;DR:",
    "TL;DR:",
    "My sister Karen got arrested. TL;DR:",
]


def length_reward(prompts, completions):
    return [len(c) / 10 for c in completions]


def trainer(folder, reward=length_reward, **settings):
    return PPOTrainer(
        PPOConfig(**{**dict(model_name=folder, batch_size=4, micro_batch_tokens=60, steps=3), **settings}),
        reward=reward,
    )


def setup(lora_r=4, **settings):
    """A trainer over a random model whose adapters are not zero, with plain SGD-like capture of its gradients."""
    config = PPOConfig(
        **{**dict(lora_r=lora_r, ppo_epochs=1, lr_schedule="constant", micro_batch_tokens=200), **settings}
    )
    roles = set_up_roles(make_base(), lora_r=lora_r, lora_alpha=8, lora_dropout=0.1, lora_targets="all-linear")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in [*roles.policy.parameters(), *roles.value.parameters()]:
            if lora_r:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return ModelTrainer(roles.policy, roles.value, config), roles


def fixed_pairs(seed=0, **settings):
    pairs = make_pairs(rows=9, dtype=torch.float32, seed=seed, **settings)
    return pairs.with_columns(old_logprobs=pairs.old_logprobs - 7)


def gradients(pairs, role, **settings):
    """The gradient that reaches the optimiser, clipped or not, and the loss."""
    trainer, _ = setup(**settings, max_grad_norm=1e9)
    optimiser = getattr(trainer, f"{role}_optimiser")
    caught = []
    optimiser.inner.register_step_pre_hook(
        lambda *_: caught.append(torch.cat([p.grad.flatten() for p in optimiser.parameters]))
    )
    metrics = getattr(trainer, f"train_{role}_model")(pairs)
    return caught[0], metrics[f"{role}_loss"]

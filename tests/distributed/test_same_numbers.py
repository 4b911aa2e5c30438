"""One process against two and three, with the same seeds: the same texts, and numbers that differ by rounding only."""

import pytest
import torch

from ppo_lm.config import PPOConfig
from ppo_lm.distributed.slices import sharded_like, whole
from ppo_lm.optimisation import Optimiser
from ppo_lm.ppo_trainer import PPOTrainer
from tests.distributed.conftest import in_processes
from tests.ppo_trainer.conftest import fixed_pairs, gradients

STEPS = 5
WHOLE = dict(top_k=0, top_p=1.0)
CONFIGURATIONS = {
    "adapters": dict(WHOLE),
    "top-k, top-p, sequence mean, one mini-batch": dict(
        top_k=40, top_p=0.9, loss_aggregation="sequence_mean", mini_batches=1
    ),
    "rloo": dict(
        WHOLE, advantage_estimator="rloo", responses_per_prompt=4, batch_size=20, mini_batches=1, ppo_epochs=1
    ),
    "shared trunk": dict(WHOLE, value_backbone="shared", kl_in="loss", entropy_coef=0.01),
    "warm-up and target KL": dict(WHOLE, value_warmup_steps=1, target_kl=0.003, ppo_epochs=3),
    "transformers' passes": dict(WHOLE, fast=False),
    "all weights": dict(WHOLE, lora_r=0, learning_rate=1e-4),
    "all weights in bf16": dict(WHOLE, lora_r=0, learning_rate=1e-4, dtype="bfloat16"),
}
SETTINGS = dict(batch_size=13, mini_batches=2, ppo_epochs=2, micro_batch_tokens=90, steps=STEPS, max_new_tokens=12)


def by_length(prompts, completions):
    """Different in every call, to see that only one process calls it."""
    by_length.calls = getattr(by_length, "calls", 0) + 1
    return [len(text) / 10 for text in completions]


def prompts_of(step, rows):
    """Of very different lengths."""
    return [f"SUBREDDIT: r/advice TITLE: {'My boss ' * (1 + (row * 7 + step) % 9)}TL;DR:" for row in range(rows)]


def steps_of(folder, settings):
    """Texts, metrics, gradients of every update before clipping, and the weights in the end."""
    caught = {}
    clip = Optimiser.clip

    def kept(optimiser):
        pairs = zip(optimiser.weights, optimiser.parameters)
        found = [whole(sharded_like(weight, own.grad)).flatten() for weight, own in pairs if own.grad is not None]
        caught.setdefault(optimiser, []).append(torch.cat(found))
        return clip(optimiser)

    Optimiser.clip = kept
    try:
        config = PPOConfig(model_name=folder, **{**SETTINGS, "learning_rate": 1e-3, **settings})
        trainer = PPOTrainer(config, reward=by_length)
        copies, made = config.responses_per_prompt, []
        for step in range(STEPS):
            prompts = [p for p in prompts_of(step, config.batch_size // copies) for _ in range(copies)]
            results = trainer.ppo_step(prompts)
            metrics = {name: value for name, value in results.items() if isinstance(value, float)}
            made.append((results["generated_texts"], results["rewards"], metrics))
        weights = torch.cat([whole(weight.detach()).float().flatten() for weight in trainer.roles.policy.parameters()])
        optimisers = trainer.model_trainer.optimisers.values()
        of_each = [gradient for optimiser in optimisers for gradient in caught.get(optimiser, [])]
        return made, of_each, weights, getattr(by_length, "calls", 0)
    finally:
        Optimiser.clip = clip


NOT_COMPARED = ("seconds", "floor/", "tokens_per_second", "sampled_tokens_per_second", "peak_memory_mib")


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *((name, 2) for name in CONFIGURATIONS),
        ("top-k, top-p, sequence mean, one mini-batch", 3),
        ("shared trunk", 3),
        ("warm-up and target KL", 3),
    ],
)
def test_the_number_of_processes_changes_nothing(folder, name, size):
    settings = CONFIGURATIONS[name]
    rounds = settings.get("dtype") == "bfloat16"  # where every sum of a mini-batch rounds to 8 bits
    (alone,) = in_processes(1, steps_of, folder, settings)
    several = in_processes(size, steps_of, folder, settings)
    for one in several:
        assert not isinstance(one, Exception), one
    first = several[0]
    for other in several[1:]:  # bit-equal to each other
        assert [step[:2] for step in other[0]] == [step[:2] for step in first[0]]
        assert all(torch.equal(a, b) for a, b in zip(other[1], first[1], strict=True))
        assert torch.equal(other[2], first[2])
        assert other[3] == 0  # rewards are the first one's
    assert first[3] == alone[3] == STEPS

    for (texts, rewards, metrics), (texts_alone, rewards_alone, metrics_alone) in zip(first[0], alone[0], strict=True):
        if rounds:
            continue
        assert texts == texts_alone
        assert rewards == rewards_alone
        assert metrics.keys() == metrics_alone.keys()
        for metric, value in metrics.items():
            if not metric.startswith(NOT_COMPARED):
                assert value == pytest.approx(metrics_alone[metric], rel=1e-5, abs=1e-5), metric
    assert len(first[1]) == len(alone[1])
    if "target_kl" in settings:  # one model's updates ended before the other's
        updates = settings["ppo_epochs"] * SETTINGS["mini_batches"]
        assert min(metrics.get("policy_updates", updates) for _, _, metrics in first[0]) < updates
    if rounds:
        assert first[0][0][0] == alone[0][0][0]  # the texts of the first step
        assert relative(first[1][0], alone[1][0]) < 2e-2
    else:
        assert max(relative(a, b) for a, b in zip(first[1], alone[1])) < 1e-5


def of_turns(role, rows, **settings):
    """The gradient of one mini-batch of sequences with several turns, and the metrics."""
    pairs = fixed_pairs(holes=True).select(torch.arange(rows))
    return gradients(pairs, role, mini_batches=1, **settings)


@pytest.mark.parametrize("rows", [9, 1], ids=["9 sequences", "fewer sequences than processes"])
@pytest.mark.parametrize("role", ["policy", "value"])
def test_turns_and_processes_without_a_sequence_change_nothing(role, rows):
    ((expected, loss),) = in_processes(1, of_turns, role, rows)
    for found, metrics in in_processes(2, of_turns, role, rows):
        assert relative(found, expected) < 1e-5
        assert metrics == pytest.approx(loss, rel=1e-5)

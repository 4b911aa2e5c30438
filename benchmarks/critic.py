"""How well a value model predicts returns on the embedded task, against the upper bound, on held-out posts.

    uv run benchmarks/critic.py [--steps 40] [--batch_size 64] [--value_learning_rate 1e-3] [--seeds 3]

The initial policy answers 256 posts that no training step has seen, once each. The first table has the explained
variance 1 − Var(G − V) / Var(G) over the tokens of these answers, where G is the reward-to-go, for four kinds of V:

* the reward model, from which a value model starts by default;
* the value model pretrained by `ppo-lm value`, from which the main job starts;
* the first of these after `value_warmup_steps` on samples of the policy, which is not trained meanwhile;
* the upper bound, E[G | prefix], whose explained variance is 1 − E[Var(G | prefix)] / Var(G), from 8 continuations of
  each of 256 prefixes.

Then the main job is run from the reward model and from the pretrained value model, and its value model is measured in
the same way, on rollouts of the policy at that point.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable
from itertools import islice

import torch
from rich.console import Console
from rich.table import Table

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.advantage import ReturnCalculator
from ppo_lm.config.files import embedded_settings
from ppo_lm.ops import explained_variance
from ppo_lm.ppo_trainer import SequenceGenerator, ValueAdder
from ppo_lm.rewards import Responses
from ppo_lm.types import SAPairs

EVERY = 5  # steps
HELD_OUT = 256  # posts
CONTINUATIONS = 8  # per prefix
STARTS = {"reward model": None, "pretrained model": "embedded"}  # `value_model`


def answer(trainer: PPOTrainer, prompts: list[str]) -> SAPairs:
    """One response of the policy to each prompt, with its reward-to-go."""
    config, roles = trainer.config, trainer.roles
    generator = SequenceGenerator(
        roles.policy, roles.sft, trainer.generator.sampling, trainer.budget, seed=config.seed + 1
    )
    pairs, texts = generator.generate_sequences(prompts)
    responses = Responses.sampled(prompts, texts, {}, pairs, generator.tokenizer)
    pairs = pairs.with_columns(scores=trainer.reward_computer.compute_rewards(responses).total)
    pairs = trainer.kl_divergence.add_kl_to_sa_pairs(pairs)
    pairs = trainer.reward_adjuster.adjust_rewards_with_kl(pairs, config.kl_coef)
    return ReturnCalculator().add_reward_to_go(pairs, config.gamma)


def ceiling(trainer: PPOTrainer, pairs: SAPairs, seed: int) -> float:
    """1 − E[Var(G | prefix)] / Var(G): the explained variance of the best possible value model, for a policy that
    equals its reference, so that G is the score alone.

    Prefixes are drawn uniformly from the pairs' states, and each is continued `CONTINUATIONS` times. The unbiased
    variance between the continuations is the part that no value model can predict.
    """
    config, roles = trainer.config, trainer.roles
    places = pairs.action_mask.nonzero()
    places = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:HELD_OUT]]
    states = [pairs.pair(row, step).state for row, step in places.tolist() for _ in range(CONTINUATIONS)]
    left = config.max_new_tokens - places[:, 1].repeat_interleave(CONTINUATIONS)
    generator = SequenceGenerator(roles.policy, roles.sft, trainer.generator.sampling, trainer.budget, seed=seed + 2)
    found, texts = generator.generate_sequences(states)
    responses = Responses.sampled(states, texts, {}, found, generator.tokenizer)
    scores = trainer.reward_computer.compute_rewards(responses).total
    returns = torch.where(found.terminated & (found.lengths <= left), scores, config.missing_eos_score)
    return 1 - float(returns.view(-1, CONTINUATIONS).var(dim=1).mean() / returns.var())


def measure(trainer: PPOTrainer, pairs: SAPairs) -> float:
    values = ValueAdder(trainer.roles.value, trainer.budget).add_values_to_sa_pairs(pairs).require("values")
    return explained_variance(values, pairs.require("reward_to_go"), pairs.action_mask)


def train_main_job(settings: dict, seed: int, value_model: str | None) -> list[float]:
    """Explained variance on held-out posts at the start, in the middle and at the end of the main job, whose value
    model starts from `value_model`."""
    trainer = PPOTrainer(
        PPOConfig(**settings | dict(value_model=value_model, eval_prompts=HELD_OUT, output_dir=None, seed=seed))
    )
    train, held_out = trainer.prompts.split(HELD_OUT, seed)
    found, steps, batches = [], settings["steps"], train.batches(settings["batch_size"], seed)
    for step in range(steps + 1):
        if step in (0, steps // 2, steps):
            found.append(measure(trainer, answer(trainer, held_out.prompts)))
        if step < steps:
            batch = next(batches)
            trainer.ppo_step(batch.prompts, batch.columns)
    return found


def warm_up_alone(settings: dict, seed: int, steps: int) -> tuple[list[float], float]:
    """Explained variance on held-out posts by number of warm-up steps, and its upper bound."""
    trainer = PPOTrainer(
        PPOConfig(
            **settings
            | dict(
                steps=steps + 1,
                value_model=None,
                value_warmup_steps=steps,
                eval_prompts=HELD_OUT,
                output_dir=None,
                seed=seed,
            )
        )
    )
    train, held_out = trainer.prompts.split(HELD_OUT, seed)
    pairs = answer(trainer, held_out.prompts)
    found = [measure(trainer, pairs)]
    for step, batch in enumerate(islice(train.batches(trainer.config.batch_size, seed), steps), start=1):
        trainer.ppo_step(batch.prompts, batch.columns)
        if step % EVERY == 0:
            found.append(measure(trainer, pairs))
    return found, ceiling(trainer, pairs, seed)


def show(title: str, rows: dict[str, Iterable[float]]) -> None:
    table = Table(title=title)
    for heading in ("", "mean", "min", "max"):
        table.add_column(heading, justify="right")
    for name, numbers in rows.items():
        numbers = list(numbers)
        table.add_row(name, f"{statistics.fmean(numbers):.3f}", f"{min(numbers):.3f}", f"{max(numbers):.3f}")
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--value_learning_rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    settings = embedded_settings("train")
    large = dict(
        batch_size=arguments.batch_size,
        mini_batches=max(arguments.batch_size // 16, 1),
        value_learning_rate=arguments.value_learning_rate,
    )
    alone = [warm_up_alone(settings | large, seed, arguments.steps) for seed in range(arguments.seeds)]
    jobs = {
        name: [train_main_job(settings, seed, start) for seed in range(arguments.seeds)]
        for name, start in STARTS.items()
    }
    rows = {
        f"after {place * EVERY * arguments.batch_size:,} samples of warm-up": numbers
        for place, numbers in enumerate(zip(*(found for found, _ in alone)))
    }
    rows |= {
        "pretrained on demonstrations, no samples": [job[0] for job in jobs["pretrained model"]],
        "upper bound": [most for _, most in alone],
    }
    show(f"before PPO: explained variance, {arguments.seeds} seeds", rows)
    rows = {
        f"from the {name}, {place}": numbers
        for name, runs in jobs.items()
        for place, numbers in zip(("start", "middle", "end"), zip(*runs))
    }
    show(f"main job: explained variance, {arguments.seeds} seeds", rows)


if __name__ == "__main__":
    main()

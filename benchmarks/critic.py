"""What the value model of the embedded task has learnt when it is trained alone at first: explained variance on rollouts of held-out posts.

    uv run benchmarks/critic.py [--steps 40] [--batch_size 64] [--value_learning_rate 1e-3] [--seeds 3]

The policy stays where it starts (`value_warmup_steps`), and 256 posts that no step has seen are answered by it once. Printed is 1 − Var(G − V) / Var(G) over their
tokens, with the reward-to-go G, before training and after every fifth step.
"""

from __future__ import annotations

import argparse
import statistics
from itertools import islice

from rich.console import Console
from rich.table import Table

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.cli.main import EMBEDDED_SETTINGS, read_settings
from ppo_lm.ppo_trainer import SequenceGenerator
from ppo_lm.ppo_trainer.metrics import explained_variance
from ppo_lm.types import SAPairs

EVERY = 5  # steps
HELD_OUT = 256  # posts


def answer(trainer: PPOTrainer, prompts: list[str]) -> SAPairs:
    """One response of the policy to each prompt, with its reward-to-go."""
    config, roles = trainer.config, trainer.roles
    generator = SequenceGenerator(roles.policy, roles.sft, trainer.generator.sampling, config.micro_batch_tokens, seed=config.seed + 1)
    pairs, texts = generator.generate_sequences(prompts)
    pairs = pairs.with_columns(scores=trainer.reward_computer.compute_rewards(prompts, texts, None, pairs))
    pairs = trainer.reward_adjuster.adjust_rewards_with_kl(trainer.kl_divergence.add_kl_to_sa_pairs(pairs))
    return trainer.return_calculator.add_reward_to_go(pairs)


def measure(trainer: PPOTrainer, pairs: SAPairs) -> float:
    values = trainer.value_adder.add_values_to_sa_pairs(pairs).require("values")
    return explained_variance(values, pairs.require("reward_to_go"), pairs.action_mask)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--value_learning_rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    settings = read_settings(EMBEDDED_SETTINGS / "train.yaml", "--config")
    changed = dict(
        steps=arguments.steps + 1, value_warmup_steps=arguments.steps, batch_size=arguments.batch_size, mini_batches=max(arguments.batch_size // 16, 1),
        value_learning_rate=arguments.value_learning_rate, eval_prompts=HELD_OUT, output_dir=None,
    )  # fmt: skip
    found: list[list[float]] = []
    for seed in range(arguments.seeds):
        trainer = PPOTrainer(PPOConfig(**settings | changed | {"seed": seed}))
        train, held_out = trainer.prompts.split(HELD_OUT, seed)
        pairs = answer(trainer, held_out.prompts)
        row = [measure(trainer, pairs)]
        for step, batch in enumerate(islice(train.batches(arguments.batch_size, seed), arguments.steps), start=1):
            trainer.ppo_step(batch.prompts, batch.columns)
            if step % EVERY == 0:
                row.append(measure(trainer, pairs))
        found.append(row)
        print(f"seed {seed}: " + ", ".join(f"{number:.3f}" for number in row), flush=True)
    table = Table(title=f"explained variance on {HELD_OUT} held-out posts, {arguments.seeds} seeds")
    for heading in ("samples of warm-up", "mean", "least", "greatest"):
        table.add_column(heading, justify="right")
    for place, numbers in enumerate(zip(*found)):
        table.add_row(f"{place * EVERY * arguments.batch_size:,}", f"{statistics.fmean(numbers):.3f}", f"{min(numbers):.3f}", f"{max(numbers):.3f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

"""ppo_lm's PPO on a workload, timed by phase: one process, one JSON line. `against.py` calls this.

The reward is a reward model with a randomly initialised head, as in the peers' runs. No token counts as EOS, so
every response has its full length, also as in the peers' runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workloads import Workload, make_prompts, read_arguments

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.base_setup import make_lora_config
from ppo_lm.models import RewardModel
from ppo_lm.rewards import ModelReward, RewardContext

NO_TOKEN = -1


class RandomReward(ModelReward):
    """A reward model with a head of random weights, which the value model does not start from."""

    def __init__(self, lora_r: int):
        self.lora_r = lora_r
        super().__init__(self.add_to_base)

    def add_to_base(self, context: RewardContext) -> RewardModel:
        base = context.find_base(Path())
        if self.lora_r:
            base.add_adapter("reward", make_lora_config(self.lora_r, 2 * self.lora_r, 0.0))
        return RewardModel(base, "reward" if self.lora_r else None)

    def make_ready(self, context: RewardContext) -> None:
        super().make_ready(context)
        self.models = ()


def make_trainer(workload: Workload, folder: Path, steps: int, lora_r: int, dtype: str, **settings) -> PPOTrainer:
    """A trainer for token prompts such as `make_prompts` makes, which samples from the whole vocabulary unless the
    settings say otherwise."""
    whole_vocabulary = {"top_k": 0, "top_p": 1.0}
    config = PPOConfig(
        model_name=str(folder / "policy"),
        dtype=dtype,
        lora_r=lora_r,
        lora_alpha=2 * max(lora_r, 1),
        lora_dropout=0.0,
        steps=steps,
        batch_size=workload.prompts,
        max_new_tokens=workload.new_tokens,
        ppo_epochs=workload.epochs,
        mini_batches=1,
        **whole_vocabulary | settings,
    )
    trainer = PPOTrainer(config, reward=RandomReward(lora_r))
    trainer.floor.passes = trainer.floor.passes._replace(rewards=1)
    for shared in {id(b): b for b in (trainer.base, trainer.roles.policy.base)}.values():
        shared.eos_token_ids = [NO_TOKEN]
    return trainer


def time_steps(trainer: PPOTrainer, workload: Workload, steps: int) -> Iterator[dict[str, Any]]:
    """The seconds of each step's phases, and the peak memory after it."""
    count = workload.prompts
    prompts = make_prompts(workload, count * steps, trainer.base.network.config.vocab_size)
    for step in range(steps):
        results = trainer.ppo_step(prompts[step * count : (step + 1) * count])
        scoring = results["seconds/scoring"] + results["seconds/reward"]
        least = {
            phase: results[f"floor/{phase}"] * results[f"seconds/{phase}"]
            for phase in ("sampling", "scoring", "reward", "training")
        }
        yield {
            "sampling": results["seconds/sampling"],
            "scoring": scoring,
            "training": results["seconds/training"],
            "step": results["seconds"],
            "peak_memory_mib": results["peak_memory_mib"],
            "least": {**least, "scoring": least["scoring"] + least["reward"], "step": sum(least.values())},
        }


if __name__ == "__main__":
    workload, folder, steps, warm_up, settings = read_arguments(sys.argv[1:])
    trainer = make_trainer(workload, folder, warm_up + steps, **settings)
    print(json.dumps([*time_steps(trainer, workload, warm_up + steps)][warm_up:]))

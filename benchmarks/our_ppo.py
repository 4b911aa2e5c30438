"""ppo_lm's PPO on a workload, timed by phase: one process, one JSON line. `against_trl.py` calls this.

The reward is a reward model with a randomly initialised head, as in the TRL run. No token counts as EOS, so every
response has its full length, also as in the TRL run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from workloads import WORKLOADS, Workload, make_prompts

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.base_setup import make_lora_config
from ppo_lm.models import RewardModel

NO_TOKEN = -1


def make_trainer(workload: Workload, folder: Path, steps: int, lora_r: int, dtype: str, **settings) -> PPOTrainer:
    """A trainer that takes the indices of the workload's prompts as its prompts."""
    config = PPOConfig(
        model_name=str(folder / "policy"),
        dtype=dtype,
        lora_r=lora_r,
        lora_alpha=2 * max(lora_r, 1),
        lora_dropout=0.0,
        steps=steps,
        batch_size=workload.prompts,
        max_new_tokens=workload.new_tokens,
        top_k=0,
        top_p=1.0,
        ppo_epochs=workload.epochs,
        mini_batches=1,
        **settings,
    )
    trainer = PPOTrainer(config, reward=len)
    base = trainer.base
    if lora_r:
        base.add_adapter("reward", make_lora_config(lora_r, 2 * lora_r, 0.0))
    trainer.reward_computer.rewards = [RewardModel(base, "reward" if lora_r else None)]
    trainer.floor.passes = trainer.floor.passes._replace(rewards=1)
    for shared in {id(b): b for b in (base, trainer.roles.policy.base)}.values():
        shared.eos_token_ids = [NO_TOKEN]
    prompts = make_prompts(workload, workload.prompts * steps, base.network.config.vocab_size)
    trainer.generator._encode = lambda rows: [prompts[int(row)] for row in rows]  # random tokens are not text
    return trainer


def time_steps(trainer: PPOTrainer, workload: Workload, steps: int) -> list[dict[str, float]]:
    """The seconds of each step's phases, and the peak memory after it."""
    done = []
    for step in range(steps):
        results = trainer.ppo_step([str(row) for row in range(step * workload.prompts, (step + 1) * workload.prompts)])
        scoring = results["seconds/scoring"] + results["seconds/reward"]
        least = {
            phase: results[f"floor/{phase}"] * results[f"seconds/{phase}"]
            for phase in ("sampling", "scoring", "reward", "training")
        }
        done.append(
            {
                "sampling": results["seconds/sampling"],
                "scoring": scoring,
                "training": results["seconds/training"],
                "step": results["seconds"],
                "peak_memory_mib": results["peak_memory_mib"],
                "least": {**least, "scoring": least["scoring"] + least["reward"], "step": sum(least.values())},
            }
        )
    return done


if __name__ == "__main__":
    name, folder, steps, warm_up, lora_r, dtype, *pairs = sys.argv[1:]
    settings = {key: int(value) if value.isdigit() else value for key, value in (pair.split("=") for pair in pairs)}
    total = int(warm_up) + int(steps)
    trainer = make_trainer(WORKLOADS[name], Path(folder), total, int(lora_r), dtype, **settings)
    print(json.dumps(time_steps(trainer, WORKLOADS[name], total)[int(warm_up) :]))

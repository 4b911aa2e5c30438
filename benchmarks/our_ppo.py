"""ppo_lm's PPO on a workload, timed by phase: one process, one JSON line. `against_trl.py` calls this.

The reward is a reward model with a head of random weights, as TRL's is. No token counts as EOS, so that every response has its full length, as TRL's has.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from peft import LoraConfig

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.models import RewardModel
from workloads import WORKLOADS, make_prompts

NO_TOKEN = -1


def main(name: str, folder: Path, steps: int, warm_up: int, lora_r: int, dtype: str, **settings) -> None:
    workload = WORKLOADS[name]
    config = PPOConfig(
        model_name=str(folder / "policy"), dtype=dtype, lora_r=lora_r, lora_alpha=2 * max(lora_r, 1), lora_dropout=0.0, steps=warm_up + steps,
        batch_size=workload.prompts, max_new_tokens=workload.new_tokens, top_k=0, top_p=1.0, ppo_epochs=workload.epochs, mini_batches=1, **settings,
    )  # fmt: skip
    trainer = PPOTrainer(config, reward=len)
    base = trainer.base
    if lora_r:
        base.add_adapter("reward", LoraConfig(r=lora_r, lora_alpha=2 * lora_r, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))
    trainer.reward_computer.rewards = [RewardModel(base, "reward" if lora_r else None)]
    for shared in {id(b): b for b in (base, trainer.roles.policy.base)}.values():
        shared.eos_token_ids = [NO_TOKEN]
    prompts = make_prompts(workload, workload.prompts * config.steps, base.network.config.vocab_size)
    trainer.generator._encode = lambda rows: [prompts[int(row)] for row in rows]  # random tokens have no text
    done = []
    for step in range(config.steps):
        results = trainer.ppo_step([str(row) for row in range(step * workload.prompts, (step + 1) * workload.prompts)])
        scoring = results["seconds/scoring"] + results["seconds/reward"]
        done.append(
            {
                "sampling": results["seconds/sampling"], "scoring": scoring, "training": results["seconds/training"], "step": results["seconds"],
                "peak_memory_mib": results["peak_memory_mib"],
            }
        )  # fmt: skip
    print(json.dumps(done[warm_up:]))


if __name__ == "__main__":
    settings = dict(pair.split("=") for pair in sys.argv[7:])
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6], **{k: int(v) if v.isdigit() else v for k, v in settings.items()})

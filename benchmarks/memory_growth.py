"""Resident memory, open files and threads in a long run of a very small model.

    uv run benchmarks/memory_growth.py [--steps 2000]

Prints them after step 100 and after the last step. Exits with code 1 if memory has grown by more than 5%, or if the
number of open files or threads has grown at all.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from pathlib import Path

from small_runs import PROMPTS, make_model

from ppo_lm import PPOConfig, PPOTrainer

AFTER = 100


def of_length(prompts, completions):
    return [len(completion) / 10 for completion in completions]


def measure() -> dict[str, float]:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return {
        "resident MiB": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "open files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    steps, found = parser.parse_args().steps, {}
    with tempfile.TemporaryDirectory() as place:
        make_model(Path(place) / "model")
        config = PPOConfig(
            model_name=str(Path(place) / "model"),
            batch_size=4,
            ppo_epochs=2,
            steps=steps,
            learning_rate=1e-4,
            max_new_tokens=6,
            lora_r=4,
            device="cpu",
            eval_prompts=2,
            eval_every=500,
            save_every=50,
            output_dir=str(Path(place) / "run"),
            save_merged=False,
        )
        trainer = PPOTrainer(config, reward=of_length)
        step, done = trainer.ppo_step, []

        def counted(prompts, columns=None):
            results = step(prompts, columns)
            done.append(None)
            if len(done) in (AFTER, steps):
                found[len(done)] = measure()
            return results

        trainer.ppo_step = counted
        trainer.train(PROMPTS)
    for after, numbers in found.items():
        print(f"after step {after:>5}: " + ", ".join(f"{name} {value:,.0f}" for name, value in numbers.items()))
    then, now = found[AFTER], found[steps]
    growth = now["resident MiB"] / then["resident MiB"]
    print(f"resident memory: {growth:.3f} times its value after step {AFTER}")
    sys.exit(growth > 1.05 or now["open files"] > then["open files"] or now["threads"] > then["threads"])


if __name__ == "__main__":
    main()

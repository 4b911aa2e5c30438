"""The table of docs/plan.md: what `ppo-lm plan` predicts for Qwen3 on H100s, in Markdown. Nothing is measured.

uv run benchmarks/plan_table.py
"""

from __future__ import annotations

import argparse

from ppo_lm.config import PlanConfig
from ppo_lm.planning import choose, find_hardware, read_job
from ppo_lm.planning.memory import in_gib
from ppo_lm.planning.published import QWEN3

RUN = {"hardware": "h100", "prompt_tokens": 256, "max_new_tokens": 256, "batch_size": 128, "ppo_epochs": 1}
DEVICES = (1, 8)
PHASES = ("sampling", "scoring", "training")


def row(size: str, devices: int) -> list[str]:
    """The cells of one model on one number of devices."""
    config = PlanConfig(model_name=f"Qwen/Qwen3-{size}", devices=devices, **RUN)
    hardware = find_hardware(config)
    plan = choose(read_job(config, hardware)[0], hardware).plan
    seconds = [f"{plan.seconds[phase].total:.1f}" for phase in PHASES]
    memory = f"{in_gib(plan.peak_memory):.0f}"
    return [f"Qwen3-{size}", str(devices), str(plan.layout.trainers), memory, *seconds, f"{plan.step_seconds:.1f}"]


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    headings = ["model", "H100s", "processes", "memory of each, GiB", *(f"{phase}, s" for phase in PHASES), "step, s"]
    rows = [row(size, devices) for size in QWEN3 for devices in DEVICES]
    for cells in (headings, ["---"] * len(headings), *rows):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

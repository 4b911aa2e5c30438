"""Steps of PPO by phase on one GPU, against the hardware minimum, with a profile of the last one.

    uv run benchmarks/gpu_step.py FOLDER OUT [WORKLOAD] [--steps 3] [--profile] [key=value ...]

Appends one JSON line for each step to OUT.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from our_ppo import make_trainer, time_steps
from torch.profiler import ProfilerActivity, profile
from workloads import WORKLOADS, prepare, read_arguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the models are kept")
    parser.add_argument("out", type=Path)
    parser.add_argument("--workload", choices=WORKLOADS, default="qwen3")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="profile one more step")
    parser.add_argument("settings", nargs="*", help="key=value: settings of PPOConfig")
    arguments = parser.parse_intermixed_args()
    folder = prepare(arguments.folder, arguments.workload, scorers=False)
    workload, _, steps, _, settings = read_arguments(
        [arguments.workload, str(folder), str(arguments.steps), "0", *arguments.settings]
    )
    settings = {"lora_r": workload.lora_r, "dtype": "bfloat16"} | settings
    trainer = make_trainer(workload, folder, steps + arguments.profile, **settings)
    for line in time_steps(trainer, workload, steps):
        write(arguments.out, {"settings": arguments.settings, "card": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU", **line})
    if arguments.profile:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            time_steps(trainer, workload, 1)
        table = profiled.key_averages()
        print(table.table(sort_by="self_device_time_total", row_limit=25, max_name_column_width=60))
        print(table.table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=60))


def write(out: Path, line: dict) -> None:
    print(json.dumps(line), flush=True)
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()

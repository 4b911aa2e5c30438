"""Steps of PPO by phase on one GPU, against the hardware minimum.

    uv run benchmarks/gpu_step.py OUT [--workload qwen3] [--steps 3] [--profile] [key=value ...]

Appends one JSON line for each step to OUT. `key=value` are settings of PPOConfig.
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
    parser.add_argument("out", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="where the models are kept")
    parser.add_argument("--workload", choices=WORKLOADS, default="qwen3")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="print where the time of one more step goes")
    parser.add_argument("--trace", type=Path, help="with --profile: write its events to this file, for a trace viewer")
    parser.add_argument("settings", nargs="*", help="key=value: settings of PPOConfig")
    arguments = parser.parse_intermixed_args()
    folder = prepare(arguments.folder, arguments.workload, scorers=False)
    _, _, _, _, settings = read_arguments([arguments.workload, str(folder), "0", "0", *arguments.settings])
    workload = WORKLOADS[arguments.workload]
    settings = {"lora_r": workload.lora_r, "dtype": "bfloat16"} | settings
    trainer = make_trainer(workload, folder, arguments.steps + arguments.profile, **settings)
    about = {
        "workload": arguments.workload,
        "settings": arguments.settings,
        "card": card(),
        "torch": torch.__version__,
        "model": trainer.base.description,  # also says what the device cannot run
    }
    for number, step in enumerate(time_steps(trainer, workload, arguments.steps), start=1):
        line = json.dumps({**about, "step_number": number, **step})
        print(line, flush=True)
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    if arguments.profile:
        print_profile(trainer, workload, arguments.trace)


def print_profile(trainer, workload, trace: Path | None) -> None:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        (seconds,) = time_steps(trainer, workload, 1)
    print(json.dumps(seconds))
    if trace:
        profiled.export_chrome_trace(str(trace))
    events = profiled.key_averages()
    for order in ("self_device_time_total", "self_cpu_time_total"):
        print(f"\nby {order}, ms: on the device, on the host, calls")
        for event in sorted(events, key=lambda event: -getattr(event, order))[:30]:
            device, host = event.self_device_time_total / 1e3, event.self_cpu_time_total / 1e3
            print(f"{device:9.1f} {host:9.1f} {event.count:7}  {event.key[:90]}")


def card() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


if __name__ == "__main__":
    main()

"""TRL 1.12's PPO and ppo_lm's on the same models, prompt lengths and sizes: alternating runs in separate processes.

    uv run benchmarks/against_trl.py [--repeats 5] [--workloads smollm2 tiny] [--out benchmarks.json]

    uv run benchmarks/against_trl.py --workloads qwen3      # on a GPU

Prints, for each workload and each variant of ours, the median over the repeats of TRL's seconds divided by ours, with
the smallest and the largest ratio, and the hardware minimum: the time that the machine's measured rates of matrix
products and of copying would need, as a share of our time (`ppo_lm/tracking/floor.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from workloads import ON_GPU, WORKLOADS, prepare

HERE = Path(__file__).parent
OURS = {  # name → lora_r, dtype, settings
    "smollm2": {
        "LoRA, bf16": (16, "bfloat16", []),
        "LoRA, bf16, value head on the policy": (16, "bfloat16", ["value_backbone=shared"]),
        "LoRA, fp32": (16, "float32", []),
    },
    "tiny": {
        "LoRA, bf16": (16, "bfloat16", []),
        "LoRA, bf16, value head on the policy": (16, "bfloat16", ["value_backbone=shared"]),
        "all weights, bf16": (0, "bfloat16", []),
        "all weights, fp32": (0, "float32", []),
    },
    "qwen3": {"LoRA, bf16": (16, "bfloat16", ["micro_batch_tokens=16384", "rollout_slots=128"])},
}
COLUMNS = ("sampling", "scoring", "training", "step", "peak_memory_mib")


def run(script: str, *arguments) -> dict[str, float]:
    """The medians over the steps of one process and, for ours, the minimum seconds that the machine needs."""
    threads = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))} if hasattr(os, "sched_getaffinity") else {}
    environment = (
        os.environ
        | threads
        | {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}
    )
    environment |= {} if arguments[0] in ON_GPU else {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(HERE / script), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{script} {' '.join(map(str, arguments))} failed:\n{done.stderr[-3000:]}")
    steps = json.loads(done.stdout.strip().splitlines()[-1])
    medians = {column: statistics.median(step[column] for step in steps) for column in COLUMNS[:-1]} | {
        "peak_memory_mib": steps[-1]["peak_memory_mib"]
    }
    return medians | {"least": steps[-1].get("least")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="measured steps per process, after one warm-up step")
    parser.add_argument(
        "--workloads",
        nargs="+",
        choices=WORKLOADS,
        default=[name for name in WORKLOADS if name not in ON_GPU],
        help="qwen3 needs one GPU with 80 GB",
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="where to keep the models")
    parser.add_argument("--out", type=Path, help="write all numbers to this JSON file")
    arguments = parser.parse_args()
    console, everything = Console(width=160), {}
    for name in arguments.workloads:
        folder = prepare(arguments.folder, name)
        runs: dict[str, list[dict[str, float]]] = {"TRL 1.12": [], **{way: [] for way in OURS[name]}}
        for repeat in range(arguments.repeats):
            runs["TRL 1.12"].append(run("trl_ppo.py", name, folder, arguments.steps, 1))
            for way, (lora_r, dtype, settings) in OURS[name].items():
                runs[way].append(run("our_ppo.py", name, folder, arguments.steps, 1, lora_r, dtype, *settings))
            console.print(
                f"{name}, repeat {repeat + 1} of {arguments.repeats}: "
                + ", ".join(f"{way} {made[-1]['step']:.2f} s" for way, made in runs.items())
            )
        console.print(make_table(name, runs))
        everything[name] = runs
        if arguments.out:
            arguments.out.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


def make_table(name: str, runs: dict[str, list[dict[str, float]]]) -> Table:
    """Medians of both, and TRL's divided by ours: median [min, max] over the repeats."""
    table = Table(title=f"{name}: {WORKLOADS[name]}")
    for heading in ("", *COLUMNS):
        table.add_column(heading, justify="left" if not heading else "right")
    theirs = runs["TRL 1.12"]
    for way, made in runs.items():
        table.add_row(way, *[f"{statistics.median(run[column] for run in made):.2f}" for column in COLUMNS])
        if made is not theirs:
            ratios = {column: [their[column] / our[column] for their, our in zip(theirs, made)] for column in COLUMNS}
            least = [[run["least"].get(column, 0.0) / run[column] for run in made] for column in COLUMNS]
            table.add_row(
                "  hardware minimum", *[f"{statistics.median(shares):.0%}" if any(shares) else "" for shares in least]
            )
            table.add_row(
                "  TRL / ours", *[f"{statistics.median(r):.2f} [{min(r):.2f}, {max(r):.2f}]" for r in ratios.values()]
            )
    return table


if __name__ == "__main__":
    main()

"""A peer's PPO and ppo_lm's on the same models, prompt lengths and sizes: alternating runs in separate processes.

    uv run benchmarks/against.py trl [--repeats 5] [--workloads smollm2 tiny] [--truncated] [--out benchmarks.json]

    uv run benchmarks/against.py agilerl                    # the first time, this also installs AgileRL

    uv run benchmarks/against.py trl --workloads qwen3      # on a GPU

Prints, for each workload, the medians over the repeats and, for each variant of ours, the hardware minimum and the
peer's numbers divided by ours, with the smallest and the largest ratio. The hardware minimum is the time that the
machine's measured rates of matrix products and of copying would need, as a share of our time
(`ppo_lm/tracking/floor.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from peers import OURS, PEERS, Match
from rich.console import Console
from rich.table import Table
from workloads import ON_GPU, WORKLOADS, prepare

COLUMNS = ("sampling", "scoring", "training", "step", "peak_memory_mib")
WARM_UP = 1
WHOLE_VOCABULARY = ("top_k=0", "top_p=1.0")
TRUNCATED = ("top_k=50", "top_p=0.95")

Runs = dict[str, list[dict[str, float]]]  # by a variant's title, one entry for each repeat


def run(command: tuple[str, ...], name: str, folder: Path, steps: int, settings: tuple[str, ...]) -> dict[str, float]:
    """The medians over the steps of one process and, for ours, the minimum seconds that the machine needs."""
    threads = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))} if hasattr(os, "sched_getaffinity") else {}
    environment = (
        os.environ
        | threads
        | {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}
    )
    environment |= {} if name in ON_GPU else {"CUDA_VISIBLE_DEVICES": ""}
    whole = [*command, name, str(folder), str(steps), str(WARM_UP), *settings]
    done = subprocess.run(whole, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(whole)} failed:\n{done.stderr[-3000:]}")
    measured = json.loads(done.stdout.strip().splitlines()[-1])
    medians = {column: statistics.median(step[column] for step in measured) for column in COLUMNS[:-1]} | {
        "peak_memory_mib": measured[-1]["peak_memory_mib"]
    }
    return medians | {"least": measured[-1].get("least")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="measured steps per process, after one warm-up step")
    parser.add_argument(
        "--workloads",
        nargs="+",
        choices=WORKLOADS,
        help="by default those that run on a CPU; qwen3 needs one GPU with 80 GB",
    )
    parser.add_argument(
        "--truncated", action="store_true", help=f"sample with {' and '.join(TRUNCATED)}, on both sides"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="where to keep the models")
    parser.add_argument("--out", type=Path, help="write all numbers to this JSON file")
    arguments = parser.parse_args()
    peer = PEERS[arguments.peer]
    names = arguments.workloads or [name for name in peer.matches if name not in ON_GPU]
    if missing := [name for name in names if name not in peer.matches]:
        parser.error(f"{arguments.peer} does not run on {', '.join(missing)}")
    support = TRUNCATED if arguments.truncated else WHOLE_VOCABULARY
    console, everything = Console(width=160), {}
    for name in names:
        folder, matches = prepare(arguments.folder, name), peer.matches[name]
        sides = [
            (command, variant)
            for match in matches
            for command, variants in ((peer.command, match.theirs), (OURS, match.ours))
            for variant in variants
        ]
        runs: Runs = {variant.title: [] for _, variant in sides}
        for repeat in range(arguments.repeats):
            for command, variant in sides:
                settings = (*variant.settings, *support)
                runs[variant.title].append(run(command, name, folder, arguments.steps, settings))
            console.print(
                f"{name}, repeat {repeat + 1} of {arguments.repeats}: "
                + ", ".join(f"{title} {made[-1]['step']:.2f} s" for title, made in runs.items())
            )
        console.print(make_table(f"{name}, {' '.join(support)}: {WORKLOADS[name]}", matches, runs))
        everything[name] = runs
        if arguments.out:
            arguments.out.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


def make_table(title: str, matches: tuple[Match, ...], runs: Runs) -> Table:
    """Medians of both sides, and theirs divided by ours: median [min, max] over the repeats."""
    table = Table(title=title)
    for heading in ("", *COLUMNS):
        table.add_column(heading, justify="left" if not heading else "right")

    def add_medians(side: str) -> None:
        table.add_row(side, *[f"{statistics.median(run[column] for run in runs[side]):.2f}" for column in COLUMNS])

    for match in matches:
        for their in match.theirs:
            add_medians(their.title)
        for our in match.ours:
            made = runs[our.title]
            add_medians(our.title)
            least = [[run["least"].get(column, 0.0) / run[column] for run in made] for column in COLUMNS]
            table.add_row(
                "  hardware minimum", *[f"{statistics.median(shares):.0%}" if any(shares) else "" for shares in least]
            )
            for their in match.theirs:
                table.add_row(
                    f"  {their.title} / ours", *[show_ratios(runs[their.title], made, column) for column in COLUMNS]
                )
    return table


def show_ratios(theirs: list[dict[str, float]], ours: list[dict[str, float]], column: str) -> str:
    ratios = [their[column] / our[column] for their, our in zip(theirs, ours)]
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


if __name__ == "__main__":
    main()

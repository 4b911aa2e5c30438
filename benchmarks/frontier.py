"""Reward against KL on SmolLM2-135M-Instruct, de-quantised from 4 bits: our PPO and TRL 1.12's.

    uv run benchmarks/frontier.py [--tasks sentiment tldr] [--seeds 3] [--rates 5e-4 1e-3] [--out runs/frontier]

Both start from the same weights, with the same prompts, reward function and number of samples. There are two tasks. In
the first, the reward is VADER's sentiment of completions of short openings. In the second, it is the package's TL;DR
heuristics for summaries of the embedded posts, after `ppo-lm sft` on them. Both sides train LoRA adapters of rank 16 in
float32, except that TRL's value model trains all its weights, at the policy's learning rate. Each side is tried with
the learning rates in `SIDES` on the first seed, and the rate with the highest penalised reward (reward − `kl_coef` ·
KL) on held-out prompts is run with all seeds; `--rates` sets the rates instead. Existing runs are not repeated.

Prints, as means over seeds, the reward, the KL and the penalised reward, which both sides maximise, on 48 held-out
prompts after the last batch, with `answers` completions for each prompt. Differences are paired by seed, with Student's
95% interval. The picture shows each side's path through the plane of KL and reward, one point per batch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from learning import ROOT, paired, start
from rich.console import Console
from rich.table import Table

SETTINGS = dict(
    gamma=1.0,
    lam=0.95,
    kl_coef=0.05,
    ppo_epochs=2,
    mini_batches=2,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    eval_prompts=48,
)
TASKS = {
    "sentiment": dict(
        model="smollm2", prompts="openings", reward="sentiment", answers=8, max_new_tokens=20, batch_size=32, steps=14
    ),
    "tldr": dict(
        model="smollm2_sft",
        prompts="embedded",
        reward="tldr_heuristics",
        answers=2,
        max_new_tokens=32,
        batch_size=16,
        steps=12,
    ),
}
SIDES: dict[str, list[dict[str, object]]] = {
    "ppo_lm": [{"learning_rate": rate} for rate in (5e-4, 1e-3)],
    "TRL PPO": [{"learning_rate": rate} for rate in (3e-4, 1e-3)],
}


def model_folder(task: str) -> Path:
    """The folder of the task's models, which are created if necessary."""
    from workloads import prepare

    return prepare(ROOT / "runs" / "models", TASKS[task]["model"])


def run(folder: Path, task: str, side: str, options: dict, seed: int) -> dict:
    """The numbers of one run, which is started unless it already exists."""
    if not (folder / "result.json").is_file():
        start("benchmarks/frontier_run.py", folder, task, side, seed, json.dumps(options))
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    print(f"{folder.name}: reward {result['final_score']:.3f}, KL {result['final_kl']:.2f}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3, choices=range(2, 11), metavar="2..10")
    parser.add_argument(
        "--rates",
        nargs=2,
        type=float,
        metavar=("OURS", "TRL"),
        help="learning rates for all seeds, instead of the best of those in SIDES on the first seed",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/frontier"))
    arguments = parser.parse_args()
    place, found = arguments.out.resolve(), {}
    sides = (
        {side: [{"learning_rate": rate}] for side, rate in zip(SIDES, arguments.rates)} if arguments.rates else SIDES
    )

    def start_run(task: str, side: str, options: dict, seed: int) -> dict:
        return run(
            place / f"{task}-{side.replace(' ', '_')}-{options['learning_rate']:g}-{seed}", task, side, options, seed
        )

    for task in arguments.tasks:
        model_folder(task)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tried = {
            (task, side): [pool.submit(start_run, task, side, options, 0) for options in sides[side]]
            for task in arguments.tasks
            for side in sides
        }
        for (task, side), runs in tried.items():
            reached = [objective(one.result()) for one in runs]
            best = sides[side][reached.index(max(reached))]
            found[task, side, best["learning_rate"]] = [
                pool.submit(start_run, task, side, best, seed) for seed in range(arguments.seeds)
            ]
        found = {key: [one.result() for one in runs] for key, runs in found.items()}
    for task in arguments.tasks:
        Console(width=150).print(make_table(task, {key[1:]: runs for key, runs in found.items() if key[0] == task}))
    (place / "frontier.json").write_text(
        json.dumps({", ".join(map(str, key)): runs for key, runs in found.items()}), encoding="utf-8"
    )
    draw(found, arguments.tasks, place / "frontier.png")


def make_table(task: str, sides: dict[tuple[str, float], list[dict]]) -> Table:
    ours = next(runs for (side, _), runs in sides.items() if side == "ppo_lm")
    table = Table(title=f"{task}: {TASKS[task]['steps'] * TASKS[task]['batch_size']} samples, {len(ours)} seeds")
    for column in (
        "",
        "rate",
        "held-out reward",
        "ours minus this",
        "KL, nats",
        f"reward − {SETTINGS['kl_coef']} · KL",
        "ours minus this",
    ):
        table.add_column(column)
    for (side, rate), runs in sides.items():
        rewards, objectives = [one["final_score"] for one in runs], [*map(objective, runs)]
        against = (
            ["", ""]
            if runs is ours
            else [paired([one["final_score"] for one in ours], rewards), paired([*map(objective, ours)], objectives)]
        )
        kl = statistics.fmean(one["final_kl"] for one in runs)
        table.add_row(
            side,
            f"{rate:g}",
            f"{statistics.fmean(rewards):.3f}",
            against[0],
            f"{kl:.2f}",
            f"{statistics.fmean(objectives):.3f}",
            against[1],
        )
    return table


def objective(run: dict) -> float:
    """The penalised reward: the reward of the held-out prompts minus the penalty on their KL."""
    return run["final_score"] - SETTINGS["kl_coef"] * run["final_kl"]


def points(runs: list[dict]) -> list[tuple[float, float]]:
    """(KL, reward) of every batch, averaged over seeds."""
    batches = zip(*(zip(one["kl"], one["score"]) for one in runs))
    return [
        (statistics.fmean(kl for kl, _ in batch), statistics.fmean(score for _, score in batch)) for batch in batches
    ]


def draw(found: dict[tuple[str, str, float], list[dict]], tasks: list[str], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(tasks), figsize=(5 * len(tasks), 4), squeeze=False)
    for axes, task in zip(panels[0], tasks):
        for colour, ((_, side, rate), runs) in zip(
            ("tab:blue", "tab:orange"), ((key, runs) for key, runs in found.items() if key[0] == task)
        ):
            axes.plot(*zip(*points(runs)), "o-", color=colour, label=f"{side}, rate {rate:g}")
            axes.plot([one["final_kl"] for one in runs], [one["final_score"] for one in runs], "x", color=colour)
        axes.set(title=task, xlabel="KL to the reference, nats per completion", ylabel="reward")
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    sys.exit(main())

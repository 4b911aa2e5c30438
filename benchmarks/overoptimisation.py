"""Reward over-optimisation: gold score and reward against KL, without a KL penalty and with one of 0.05.

    uv run benchmarks/overoptimisation.py [--seeds 3] [--steps 80] [--out runs/overoptimisation]

Every run trains on 8 times the samples of the main job, in batches of 64 at a constant learning rate, and is evaluated
every 5 steps on 256 held-out posts. Half of these posts decide where to stop (at the best gold score, which is what
`best/` holds after a run with `eval_every`); the gold score at that point is measured on the other half. Stopping by KL
takes the last evaluation before the first one over `--kl_limit`. Prints the gold score for both ways of stopping and
for the end of the run; writes `overoptimisation.json` and a picture. Existing runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path

from rich.console import Console
from rich.table import Table

KL_COEFS = (0.0, 0.05)
KL_TICKS = (0, 2, 5, 10, 25, 50, 100, 200)  # nats


def train(folder: Path, kl_coef: float, seed: int, steps: int) -> None:
    """One run in this process; `result.json` has one row per evaluation."""
    from ppo_lm import PPOConfig, PPOTrainer
    from ppo_lm.config.files import embedded_settings

    settings = embedded_settings("train")
    changed = dict(
        batch_size=64,
        mini_batches=2,
        ppo_epochs=2,
        learning_rate=1e-3,
        lr_schedule="constant",
        adam_epsilon=1e-5,
        value_model=None,
        kl_coef=kl_coef,
        seed=seed,
        steps=steps,
        eval_every=5,
        eval_prompts=256,
        save_merged=False,
        save_every=0,
        output_dir=None,
    )
    made = PPOTrainer(PPOConfig(**settings | changed)).train()["sampled"]
    rows = [
        {
            "step": one.step,
            "kl": one.kl,
            "score": one.score,
            "ended": one.ended,
            "length": one.length,
            "gold": one.monitor,
            "gold_to_choose": statistics.fmean(one.monitors[::2]),
            "gold_to_report": statistics.fmean(one.monitors[1::2]),
        }
        for one in made
    ]
    (folder / "result.json").write_text(json.dumps(rows), encoding="utf-8")


def stops(rows: list[dict], kl_limit: float) -> dict[str, dict]:
    """The evaluation at which each way of stopping ends the run."""
    within = list(takewhile(lambda row: row["kl"] <= kl_limit, rows))
    return {
        "end of run": rows[-1],
        "best held-out gold": max(rows, key=lambda row: row["gold_to_choose"]),
        f"KL limit of {kl_limit:g} nats": within[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--kl_limit", type=float, default=8.0, help="nats per summary")
    parser.add_argument("--out", type=Path, default=Path("runs/overoptimisation"))
    parser.add_argument("--one", nargs=2, type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    place = arguments.out.resolve()
    if arguments.one:
        kl_coef, seed = arguments.one[0], int(arguments.one[1])
        train(_folder(place, kl_coef, seed), kl_coef, seed, arguments.steps)
        return

    def run(job: tuple[float, int]) -> list[dict]:
        folder = _folder(place, *job)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "result.json").is_file():
            command = [
                sys.executable,
                __file__,
                "--one",
                *map(str, job),
                "--steps",
                str(arguments.steps),
                "--out",
                str(place),
            ]
            done = subprocess.run(
                command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(done.stderr[-3000:])
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))

    jobs = [(kl_coef, seed) for seed in range(arguments.seeds) for kl_coef in KL_COEFS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(jobs, pool.map(run, jobs)))
    table = Table(title=f"{arguments.steps} steps, {arguments.seeds} seeds")
    for column in ("kl_coef", "stopped at", "gold score", "per seed", "reward", "KL, nats", "step"):
        table.add_column(column)
    for kl_coef in KL_COEFS:
        ended = [stops(found[kl_coef, seed], arguments.kl_limit) for seed in range(arguments.seeds)]
        for way in ended[0]:
            rows = [one[way] for one in ended]
            mean = {
                name: statistics.fmean(row[name] for row in rows) for name in ("gold_to_report", "score", "kl", "step")
            }
            each = ", ".join(f"{row['gold_to_report']:.3f}" for row in rows)
            table.add_row(
                f"{kl_coef:g}",
                way,
                f"{mean['gold_to_report']:.3f}",
                each,
                f"{mean['score']:.2f}",
                f"{mean['kl']:.1f}",
                f"{mean['step']:.0f}",
            )
    Console(width=140).print(table)
    (place / "overoptimisation.json").write_text(
        json.dumps({f"{kl_coef:g}, seed {seed}": rows for (kl_coef, seed), rows in found.items()}), encoding="utf-8"
    )
    draw(found, place / "overoptimisation.png")


def draw(found: dict[tuple[float, int], list[dict]], file: Path) -> None:
    """Gold score (of all held-out posts) and reward by the square root of KL, as in Gao et al. (2210.10760); one line
    per run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8))
    colours = dict(zip(KL_COEFS, ("tab:red", "tab:blue")))
    for axes, name, label in zip(panels, ("gold", "score"), ("gold score", "reward (trained on)")):
        for (kl_coef, seed), rows in found.items():
            axes.plot(
                [row["kl"] for row in rows],
                [row[name] for row in rows],
                color=colours[kl_coef],
                alpha=0.7,
                label=f"kl_coef {kl_coef:g}" if seed == 0 else None,
            )
        axes.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0)), np.square))
        axes.set(
            xlabel="KL to the reference, nats per summary (root scale)", ylabel=label, xticks=KL_TICKS, xlim=(0, None)
        )
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def _folder(place: Path, kl_coef: float, seed: int) -> Path:
    return place / f"kl_coef_{kl_coef:g}-{seed}"


if __name__ == "__main__":
    main()

"""Sample efficiency on the embedded task: our PPO with one option changed at a time, and TRL's trainers, over seeds.

    uv run benchmarks/learning.py [--seeds 5] [--only "clip-higher 0.28" ...] [--out runs/learning]

    uv run benchmarks/learning.py --only default --peers "TRL PPO" "TRL GRPO" "TRL RLOO"

    # seeds that were not used to choose any setting
    uv run benchmarks/learning.py --only default --peers "TRL PPO" --seeds 10 --first_seed 10

Every run is either `main.py` with one option of the main job changed (or a few that belong together), as listed in
`VARIANTS`, or `trl_learning.py` with one of the settings in `PEERS`. Each run has its own process and core. Existing
runs are not repeated, so use a new `--out` for new code or options.

Prints, over seeds: the gold score and the KL of the last evaluation, on held-out posts that no run has trained on; the
number of samples needed to reach a gold score of 0.85, read from an isotonic regression of the batches' gold scores on
samples, which smooths without the lag of a moving average; the mean gold score over all samples, which is the area
under the curve; and the mean `sampler_gap` (docs/metrics.md). Differences are paired by seed, with Student's 95%
interval. The numbers and a picture, with bands from a bootstrap over seeds, are written to `--out`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
GOAL = 0.85
WINDOW = 64  # samples in the moving average of the picture
T_95 = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
}  # Student's t by degrees of freedom

NO_CRITIC = {"value_model": None, "responses_per_prompt": 4}
VARIANTS: dict[str, dict[str, object]] = {
    "default": {},
    "value from the reward model": {"value_model": None},
    "value from the reward model, 5 steps of warm-up": {"value_model": None, "value_warmup_steps": 5},
    "value target: λ-return": {"value_target": "returns"},
    "value not clipped": {"value_clip": 0.0},
    "shared trunk": {"value_model": None, "value_backbone": "shared", "value_coef": 0.02, "value_learning_rate": 0.005},
    "RLOO": {"advantage_estimator": "rloo", **NO_CRITIC},
    "group-normalised": {"advantage_estimator": "group", **NO_CRITIC},
    "λ 0.8": {"lam": 0.8},
    "λ 1": {"lam": 1.0},
    "λ adapted to length": {"lam_length_scale": 0.5},
    "discount 0.99": {"gamma": 0.99},
    "top-k 50, top-p 0.95": {"top_k": 50, "top_p": 0.95},
    "ratio to recomputed log-probabilities, weights up to 2": {"old_logprobs": "recomputed", "importance_cap": 2.0},
    "sampled a batch ahead": {"max_staleness": 1},
    "sampled a batch ahead, corrected": {"max_staleness": 1, "old_logprobs": "recomputed", "importance_cap": 2.0},
    "sampled 4 batches ahead": {"max_staleness": 4},
    "sampled 4 batches ahead, corrected": {"max_staleness": 4, "old_logprobs": "recomputed", "importance_cap": 2.0},
    "clip-higher 0.28": {"clip_epsilon_high": 0.28},
    "dual clip 3": {"dual_clip": 3.0},
    "target KL 0.05": {"target_kl": 0.05},
    "KL k3 in the reward": {"kl_estimator": "k3"},
    "KL k2 in the loss": {"kl_in": "loss", "kl_estimator": "k2"},
    "KL k3 in the loss": {"kl_in": "loss", "kl_estimator": "k3"},
    "KL steered to 4 nats": {"adaptive_kl_target": 4.0, "adaptive_kl_horizon": 2000},
    "kl_coef 0.1": {"kl_coef": 0.1},
    "mean over sequences": {"loss_aggregation": "sequence_mean"},
    "no missing-EOS score": {"missing_eos_score": None},
    "reward normalised": {"reward_normalise": True},
    "reward clipped to 2": {"reward_clip": 2.0},
    "rewards whitened": {"whiten_rewards": True},
    "advantages not whitened": {"whiten_advantages": False},
    "entropy bonus 0.01": {"entropy_coef": 0.01},
    "linear schedule": {"lr_schedule": "linear"},
    "cubic schedule": {"lr_schedule": "cubic"},
    "Adam's ε 1e-5": {"adam_epsilon": 1e-5},
    "rate 5e-4": {"learning_rate": 5e-4},
    "2 PPO epochs": {"ppo_epochs": 2},
    "2 mini-batches": {"mini_batches": 2},
    "batches of 32": {"batch_size": 32, "steps": 20},
}


def trl(
    trainer: str, learning_rate: float, batch_size: int, ppo_epochs: int = 2, kl_coef: float = 0.05, lora_r: int = 16
) -> dict[str, object]:
    return locals()


PEERS: dict[
    str, list[dict[str, object]]
] = {  # the settings that each of TRL's trainers is tried with on seed 0; the `best` are run with all seeds
    "TRL PPO": [
        trl("ppo", 3e-4, 8),
        trl("ppo", 7e-4, 8),
        trl("ppo", 1e-3, 16),
        trl("ppo", 1e-3, 32),
        trl("ppo", 3e-4, 8, 4),
        trl("ppo", 7e-4, 8, 4),
        trl("ppo", 3e-4, 8, 4, 0.1),
        trl("ppo", 7e-4, 8, 4, 0.1),
        trl("ppo", 1e-4, 8, lora_r=0),
        trl("ppo", 1e-4, 32, lora_r=0),
    ],
    "TRL GRPO": [trl("grpo", 3e-4, 8), trl("grpo", 7e-4, 8), trl("grpo", 1e-3, 16), trl("grpo", 1e-3, 32)],
    "TRL RLOO": [trl("rloo", 3e-4, 8), trl("rloo", 7e-4, 8), trl("rloo", 1e-3, 16), trl("rloo", 1e-3, 32)],
}


def run(folder: Path, options: dict[str, object], seed: int) -> dict:
    """The numbers of one of our runs, which is started unless it already exists."""
    if not (folder / "adapter").is_dir():
        shutil.rmtree(folder, ignore_errors=True)  # an interrupted run
        given = {**options, "seed": seed, "save_merged": False, "output_dir": folder}
        start("main.py", *[f"--{name}={'null' if value is None else value}" for name, value in given.items()])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps, last = (
        [row for row in rows if "seconds" in row],
        [row for row in rows if row.get("evaluation") == "sampled"][-1],
    )
    gold = [row["monitor"] for row in steps]
    batch = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["batch_size"]
    return {
        "batch": batch,
        "gold": gold,
        "score": [row["score"] for row in steps],
        "kl": [row["kl"] for row in steps],
        "final": last["monitor"],
        "final_score": last["score"],
        "final_kl": last["kl"],
        "sampler_gap": statistics.fmean(row["sampler_gap"] for row in steps),
    }


def run_peer(folder: Path, options: dict[str, object], seed: int) -> dict:
    """The numbers of one of TRL's runs, which is started unless it already exists."""
    if not (folder / "result.json").is_file():
        start("benchmarks/trl_learning.py", folder, seed, json.dumps(options))
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def start(script: str, *arguments: object) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{script} {' '.join(map(str, arguments))} failed:\n{done.stderr[-3000:]}")


def describe(options: dict[str, object]) -> str:
    """A setting of `PEERS` as text."""
    weights = f"LoRA {options['lora_r']}" if options["lora_r"] else "all weights"
    return (
        f"TRL {str(options['trainer']).upper()}, {weights}, rate {options['learning_rate']:g}, batch "
        f"{options['batch_size']}, {options['ppo_epochs']} epochs, KL {options['kl_coef']:g}"
    )


def best(settings: list[dict[str, object]], runs: list[dict]) -> list[dict[str, object]]:
    """The setting whose run has the largest area and, if it is a different one, the setting whose run reaches the goal
    first."""
    most, soonest = (
        max(range(len(runs)), key=lambda one: area(runs[one])),
        min(range(len(runs)), key=lambda one: samples_to_goal(runs[one])),
    )
    return [settings[one] for one in dict.fromkeys([most, soonest])]


def samples_to_goal(run: dict) -> float:
    """The number of samples trained on before the first batch whose gold score, by isotonic regression, reaches the
    goal; infinite if none does."""
    return next((batch * run["batch"] for batch, gold in enumerate(isotonic(run["gold"])) if gold >= GOAL), math.inf)


def isotonic(values: list[float]) -> list[float]:
    """The non-decreasing sequence closest to `values` in least squares, by pooling adjacent violators (Ayer et al.
    1955)."""
    pools: list[tuple[float, int]] = []  # (mean, length)
    for value in values:
        mean, length = value, 1
        while pools and pools[-1][0] >= mean:
            before, count = pools.pop()
            mean, length = (before * count + mean * length) / (count + length), count + length
        pools.append((mean, length))
    return [mean for mean, length in pools for _ in range(length)]


def paired(ours: list[float], others: list[float]) -> str:
    """The mean difference, paired by seed, with Student's 95% interval; a dash if any difference is infinite."""
    differences = [one - other for one, other in zip(ours, others)]
    if not all(map(math.isfinite, differences)):
        return "–"
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return f"{mean:+.3f}"
    half = T_95[len(differences) - 1] * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, choices=range(1, 11), metavar="1..10")
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=list(PEERS),
        default=[],
        help="TRL's trainers, each with its best settings by area and by samples to the goal",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    arguments = parser.parse_args()
    place, seeds = arguments.out.resolve(), range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    names = [name for name in VARIANTS if name in arguments.only or name == "default"]

    def ours(name: str, seed: int) -> dict:
        return _say(f"{name}, seed {seed}", run(place / f"{_slug(name)}-{seed}", VARIANTS[name], seed))

    def theirs(options: dict[str, object], seed: int) -> dict:
        name = describe(options)
        return _say(f"{name}, seed {seed}", run_peer(place / f"{_slug(name)}-{seed}", options, seed))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tried = {peer: [pool.submit(theirs, options, 0) for options in PEERS[peer]] for peer in arguments.peers}
        made = {name: [pool.submit(ours, name, seed) for seed in seeds] for name in names}
        for peer, runs in tried.items():
            for options in best(PEERS[peer], [one.result() for one in runs]):
                made[describe(options)] = [pool.submit(theirs, options, seed) for seed in seeds]
        found = {name: [one.result() for one in runs] for name, runs in made.items()}
    Console(width=220).print(make_table(found))
    (place / "learning.json").write_text(json.dumps(found), encoding="utf-8")
    draw(found, place / "learning.png")


def make_table(found: dict[str, list[dict]]) -> Table:
    baseline, difference = found["default"], "vs. default"
    table = Table(title=f"the embedded task, {len(baseline)} seeds")
    for column in (
        "",
        "final gold",
        difference,
        "area under gold curve",
        difference,
        f"samples to {GOAL}",
        difference,
        "final KL",
        difference,
        "sampler gap",
    ):
        table.add_column(column)
    for name, runs in found.items():
        measured = [lambda one: one["final"], area, samples_to_goal, lambda one: one["final_kl"]]
        differences = [
            paired([*map(read, runs)], [*map(read, baseline)]) if runs is not baseline else "" for read in measured
        ]
        goals = [samples_to_goal(one) for one in runs]
        table.add_row(
            name,
            f"{_mean(runs, 'final'):.3f}",
            differences[0],
            f"{statistics.fmean(map(area, runs)):.3f}",
            differences[1],
            f"{statistics.median(goals):.0f} ({min(goals):.0f}–{max(goals):.0f})",
            differences[2],
            f"{_mean(runs, 'final_kl'):.2f}",
            differences[3],
            f"{_mean(runs, 'sampler_gap'):.1e}" if "sampler_gap" in runs[0] else "",
        )
    return table


def draw(found: dict[str, list[dict]], file: Path) -> None:
    """Gold score over the last `WINDOW` samples, by sample: means over seeds, and bands that contain 95% of the
    bootstrapped means."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    rng = np.random.default_rng(0)
    for name, runs in found.items():
        batch = runs[0]["batch"]
        width = WINDOW // batch
        curves = np.array([np.convolve(one["gold"], np.full(width, 1 / width), mode="valid") for one in runs])
        means = np.array([curves[rng.integers(len(curves), size=len(curves))].mean(axis=0) for _ in range(2000)])
        samples = WINDOW + batch * np.arange(curves.shape[1])
        axes.plot(samples, curves.mean(axis=0), label=name)
        axes.fill_between(samples, *np.quantile(means, [0.025, 0.975], axis=0), alpha=0.2)
    axes.set(xlabel="samples", ylabel=f"gold score over the last {WINDOW} samples")
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def area(run: dict) -> float:
    """Mean gold score over all samples."""
    return statistics.fmean(run["gold"])


def _mean(runs: list[dict], name: str) -> float:
    return statistics.fmean(one[name] for one in runs)


def _say(name: str, result: dict) -> dict:
    print(
        f"{name}: gold {result['final']:.3f}, area {area(result):.3f}, samples to {GOAL} "
        f"{samples_to_goal(result)}, KL {result['final_kl']:.2f}",
        flush=True,
    )
    return result


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


if __name__ == "__main__":
    main()

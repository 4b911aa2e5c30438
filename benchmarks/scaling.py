"""How the cost of a step grows with prompts, response length and model, and what responses that end early save.

    uv run benchmarks/scaling.py [--repeats 3] [--out scaling.json]

Every size runs in a separate process, alternating between sizes. Prints medians over the repeats.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from our_ppo import make_trainer, time_steps
from rich.console import Console
from rich.table import Table
from workloads import WORKLOADS, make_prompts, prepare

from ppo_lm.data.encoding import pad
from ppo_lm.rollout import draw_uniforms

TINY = replace(WORKLOADS["tiny"], epochs=1)
SIZES = {
    "prompts": [replace(TINY, prompts=n) for n in (64, 128, 256, 512)],
    "new tokens": [replace(TINY, new_tokens=n) for n in (32, 64, 128, 256)],
    "model": [TINY, replace(WORKLOADS["smollm2"], prompts=64, shortest=32, longest=64, new_tokens=32)],
}
SLOTS = 32
ENDS = [
    (limit, ends) for limit in (64, 128, 256) for ends in (False, True)
]  # (new tokens, whether responses end early)


def measure(workload, folder: Path) -> dict[str, float]:
    """One step after a warm-up step, in this process."""
    *_, found = time_steps(make_trainer(workload, folder, 2, 16, "float32"), workload, 2)
    return {name: value for name, value in found.items() if name != "least"}


def measure_early_ends(folder: Path, limit: int, ends: bool) -> dict[str, float]:
    """Seconds to sample four times as many responses as there are slots, at full length or, with `ends`, at half of it
    on average."""
    workload = replace(TINY, prompts=4 * SLOTS, new_tokens=limit)
    trainer = make_trainer(workload, folder, 3, 16, "float32", rollout_slots=SLOTS)
    if ends:  # random weights make all tokens about equally likely; with this many EOS tokens the mean length is half
        trainer.base.eos_token_ids = list(range(2, 2 + round(1.6 / limit * trainer.base.network.config.vocab_size)))
    prompts = make_prompts(workload, 3 * workload.prompts, trainer.base.network.config.vocab_size)
    for step in range(3):
        ids, mask = pad(
            prompts[step * 4 * SLOTS : (step + 1) * 4 * SLOTS],
            trainer.base.pad_token_id,
            side="left",
            device=trainer.base.device,
        )
        started = time.perf_counter()
        sampling = trainer.generator.sampling
        uniforms = draw_uniforms(len(ids), sampling, torch.Generator().manual_seed(step), ids.device)
        sampled = trainer.generator.engine.sample(ids, mask, sampling, uniforms)
        seconds = time.perf_counter() - started
    eos = torch.isin(sampled.ids, torch.tensor(trainer.base.eos_token_ids)).long()
    lengths = (eos.cumsum(dim=1) - eos == 0).sum(dim=1).float()
    return {"sampling": seconds, "mean length": float(lengths.mean())}


def in_a_process(kind: str, index: int, folder: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--one", kind, str(index), "--folder", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=[*SIZES, "early ends"], default=[*SIZES, "early ends"])
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="where to keep the models")
    parser.add_argument("--out", type=Path, help="write all numbers to this JSON file")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, index = arguments.one[0], int(arguments.one[1])
        if kind == "early ends":
            found = measure_early_ends(prepare(arguments.folder, "tiny"), *ENDS[index])
        else:
            found = measure(SIZES[kind][index], prepare(arguments.folder, SIZES[kind][index].model))
        print(json.dumps(found))
        return
    console, everything = Console(width=140), {}
    for kind in arguments.kinds:
        sizes = SIZES.get(
            kind, [f"{limit} tokens{', ending at half on average' if ends else ''}" for limit, ends in ENDS]
        )
        runs = [[] for _ in sizes]
        for _ in range(arguments.repeats):
            for index, made in enumerate(runs):
                made.append(in_a_process(kind, index, arguments.folder))
        medians = [{name: statistics.median(run[name] for run in made) for name in made[0]} for made in runs]
        table = Table(title=kind)
        for heading in ("size", *medians[0], "ratio to the previous"):
            table.add_column(heading)
        time_of = "sampling" if kind == "early ends" else "step"
        for index, (size, found) in enumerate(zip(sizes, medians)):
            ratio = f"{found[time_of] / medians[index - 1][time_of]:.2f}" if index else ""
            table.add_row(str(size), *[f"{value:.2f}" for value in found.values()], ratio)
        console.print(table)
        everything[kind] = medians
        if arguments.out:
            arguments.out.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""The predictions of `ppo-lm plan` against measured steps, on a CPU.

    uv run benchmarks/plan_check.py           # six configurations that nothing was fitted to
    uv run benchmarks/plan_check.py --fit     # eight others: prints the lines to put into ppo_lm/planning/efficiency.py

Every configuration runs in a process of its own, after which this one predicts it from the machine's rates that the
process measured. Run it on an idle machine. `--save FILE` keeps the measurements, `--measured FILE` reads them;
`--gpu FILE` prints the line for GPUs from what `gpu_step.py` measured on an H100.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from plan_cases import CASES, CHECK, FIT, Case
from plan_fit import PHASES, Measured, fit, fit_gpu, line
from rich.console import Console
from rich.table import Table

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.config import PlanConfig
from ppo_lm.planning import Hardware, Layout, plan_for, read_job
from ppo_lm.planning.efficiency import MIB, Efficiency
from ppo_lm.tracking import peak_memory
from ppo_lm.tracking.floor import Machine

STEPS = 4  # the first is not counted: it prepares programs for shapes of products
NO_TOKEN = -1
TIME, MEMORY = 0.25, 0.15  # what is allowed between prediction and measurement


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Run some steps in this process: the median seconds of their phases, and the peak memory in MiB."""
    cpu = torch.device("cpu")
    imported = peak_memory(cpu)
    trainer = PPOTrainer(
        PPOConfig(**case.config(folder), steps=STEPS), reward=lambda completions: [1.0] * len(completions)
    )
    for base in (trainer.base, trainer.roles.policy.base):
        base.eos_token_ids = [NO_TOKEN]  # every response has its full length
    copies, rng = trainer.config.responses_per_prompt, random.Random(0)
    vocabulary = trainer.base.network.config.vocab_size
    found = []
    for _ in range(STEPS):
        lengths = [rng.randint(case.shortest, case.longest) for _ in range(trainer.config.batch_size // copies)]
        prompts = [[rng.randrange(4, vocabulary) for _ in range(length)] for length in lengths]
        found.append(trainer.ppo_step([prompt for prompt in prompts for _ in range(copies)]))
    seconds = {name: [step[f"seconds/{name}"] for step in found[1:]] for name in PHASES}
    seconds["step"] = [step["seconds"] for step in found[1:]]
    return {
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "peak_mib": peak_memory(cpu),
        "imported_mib": imported,
        "machine": trainer.floor.machine._asdict(),
        "threads": torch.get_num_threads(),
    }


def measure_in_a_process(name: str, folder: Path) -> dict[str, Any]:
    """`measure` in a new process."""
    CASES[name].make_model(folder)
    command = [sys.executable, __file__, "--one", name, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def as_measured(case: Case, folder: Path, found: dict[str, Any]) -> Measured:
    """A measurement, and the job that the plan of the same settings is about."""
    hardware = Hardware(
        name="this CPU",
        device_type="cpu",
        devices=1,
        hosts=1,
        machine=Machine(**found["machine"]),
        memory=0,
        imported=int(found["imported_mib"] * MIB),
        link=None,
        host_link=None,
        source="measured",
    )
    config = PlanConfig(**case.config(folder), prompt_tokens=case.prompt_tokens)
    return Measured(read_job(config, hardware)[0], hardware, found["seconds"], found["peak_mib"] * MIB)


def compare(steps: dict[str, Measured], fitted: dict[str, Efficiency]) -> tuple[Table, bool]:
    """The table of predictions over measurements, and whether all are within the limits. `fitted`: what to predict
    with, by its name in `efficiency.py`; empty for what is there."""
    table, within = Table(title="measured, and predicted / measured"), True
    for heading in ("configuration", *PHASES, "step", "peak memory, MiB"):
        table.add_column(heading, justify="left" if heading == "configuration" else "right")
    for name, step in steps.items():
        plan = plan_for(step.job, step.hardware, Layout(trainers=1))
        own = fitted.get("CPU_FP32" if step.job.network.dtype.itemsize == 4 else "CPU_BF16")
        plan = plan if own is None else dataclasses.replace(plan, efficiency=own)
        predicted = {phase: plan.seconds[phase].total for phase in PHASES} | {"step": plan.step_seconds}
        time, memory = plan.step_seconds / step.seconds["step"], plan.peak_memory / step.peak
        within &= abs(time - 1) <= TIME and abs(memory - 1) <= MEMORY
        cells = [f"{s:.2f} s, {predicted[phase] / s:.2f}" for phase, s in step.seconds.items()]
        table.add_row(name, *cells, f"{step.peak / MIB:,.0f}, {memory:.2f}")
    return table, within


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fit", action="store_true", help="measure the other configurations, and fit the model")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="where to keep the models")
    parser.add_argument("--save", type=Path, help="write the measurements to this JSON file")
    parser.add_argument("--measured", type=Path, help="read them from it instead of measuring")
    parser.add_argument("--gpu", type=Path, help="fit the line for GPUs to this file")
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(CASES[arguments.one], arguments.folder)))
        return
    if arguments.gpu:
        on_gpu = fit_gpu([json.loads(step) for step in arguments.gpu.read_text(encoding="utf-8").splitlines()])
        print(line("GPU", on_gpu.efficiency))
        print(f"peak memory: predicted {on_gpu.predicted / MIB:,.0f} MiB, measured {on_gpu.peak / MIB:,.0f} MiB")
        return
    console, cases = Console(width=140), FIT if arguments.fit else CHECK
    if arguments.measured:
        found = json.loads(arguments.measured.read_text(encoding="utf-8"))
        for name in cases:
            CASES[name].make_model(arguments.folder)
    else:
        found = {name: measure_in_a_process(name, arguments.folder) for name in cases}
    if arguments.save:
        arguments.save.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    steps = {name: as_measured(case, arguments.folder, found[name]) for name, case in cases.items()}
    fitted = fit(list(steps.values())) if arguments.fit else {}
    table, within = compare(steps, fitted)
    console.print(table)
    for name, efficiency in fitted.items():
        print(line(name, efficiency))
    if not arguments.fit:
        limits = f"{TIME:.0%} of the measured time and {MEMORY:.0%} of the measured memory"
        console.print(f"{'all' if within else 'NOT all'} within {limits}")


if __name__ == "__main__":
    main()

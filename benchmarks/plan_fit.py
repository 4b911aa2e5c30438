"""Fit what is in `ppo_lm.planning.efficiency` to measured steps; `plan_check.py --fit` and `--gpu` call this."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ppo_lm.config import PlanConfig
from ppo_lm.planning import Hardware, Job, Layout, find_hardware, read_job
from ppo_lm.planning.efficiency import CPU_BF16, CPU_FP32, MIB, Efficiency
from ppo_lm.planning.memory import memory_by_part
from ppo_lm.planning.seconds import seconds_by_phase
from ppo_lm.planning.spent import Spent, add_up

ALONE = Layout(trainers=1)
PHASES = ("sampling", "scoring", "training")
TOWARDS_START = 0.003  # weight of the squared log of a factor over its start: few steps cannot tell all factors apart
FIRST_STEP, LAST_STEP = 0.5, 0.01  # of the search, in logs
WARM = 3  # the first step of `gpu_step.py` that counts
SHARES = ("products", "decode_products", "decode_bytes")  # at most 1


class Measured(NamedTuple):
    """A step that was measured: seconds by phase and as "step", and the peak memory in bytes."""

    job: Job
    hardware: Hardware
    seconds: dict[str, float]
    peak: float


def fit(steps: Sequence[Measured]) -> dict[str, Efficiency]:
    """The efficiencies by their names in `efficiency.py`, each from the steps in its dtype."""
    starts = {"CPU_FP32": (CPU_FP32, 4), "CPU_BF16": (CPU_BF16, 2)}
    return {
        name: _fit([step for step in steps if step.job.network.dtype.itemsize == itemsize], start)
        for name, (start, itemsize) in starts.items()
    }


def line(name: str, efficiency: Efficiency) -> str:
    """A line for `efficiency.py`."""
    *factors, framework = efficiency
    return f"{name} = Efficiency({', '.join(f'{factor:.3g}' for factor in factors)}, {framework // MIB} * MIB)"


def _fit(steps: Sequence[Measured], start: Efficiency) -> Efficiency:
    names = [name for name in Efficiency._fields if name != "framework"]

    def distance(logs: list[float]) -> float:
        made = _moved(start, dict(zip(names, logs)))
        return _distance(steps, made) + TOWARDS_START * sum(log**2 for log in logs)

    logs = _search(distance, len(names))
    return _moved(start, dict(zip(names, logs)))._replace(framework=_framework(steps, start))


def _moved(start: Efficiency, logs: dict[str, float]) -> Efficiency:
    made = {name: getattr(start, name) * math.exp(log) for name, log in logs.items()}
    return start._replace(**{name: min(value, 1.0) if name in SHARES else value for name, value in made.items()})


def _distance(steps: Sequence[Measured], efficiency: Efficiency) -> float:
    """The sum of squared logs of predicted over measured seconds, of phases and of steps."""
    total = 0.0
    for step in steps:
        phases = seconds_by_phase(step.job, step.hardware, ALONE, efficiency)
        total += sum(math.log(phases[name].total / step.seconds[name]) ** 2 for name in PHASES)
        total += math.log(add_up(phases.values()).total / step.seconds["step"]) ** 2
    return total


def _search(distance: Callable[[list[float]], float], count: int) -> list[float]:
    """Coordinate search from 0, with steps that are halved when none of them helps."""
    best, step = [0.0] * count, FIRST_STEP
    least = distance(best)
    while step > LAST_STEP:
        helped = False
        for place in range(count):
            for change in (step, -step):
                tried = [*best[:place], best[place] + change, *best[place + 1 :]]
                found = distance(tried)
                if found < least:
                    best, least, helped = tried, found, True
        step = step if helped else step / 2
    return best


def _framework(steps: Sequence[Measured], start: Efficiency) -> int:
    """The median of what the rest of the memory model leaves unexplained, in whole MiB."""
    without = start._replace(framework=0)
    left = [s.peak - sum(memory_by_part(s.job, s.hardware, ALONE, without).values()) for s in steps]
    return round(statistics.median(left) / MIB) * MIB


class OnGPU(NamedTuple):
    """What one run on a GPU says: its efficiency, and its peak memory in bytes, as predicted and as measured."""

    efficiency: Efficiency
    predicted: int
    peak: float


def fit_gpu(steps: Sequence[dict[str, Any]]) -> OnGPU:
    """From the steps of `gpu_step.py` with the workload "qwen3" on an H100, against its published rates: the share of
    the products that scoring and training reach, and the share of its bandwidth that sampling then reaches."""
    sizes = {"batch_size": 128, "max_new_tokens": 256, "prompt_tokens": 256, "ppo_epochs": 1}
    config = PlanConfig(
        model_name="Qwen/Qwen3-0.6B", hardware="h100", dtype="bfloat16", lora_r=16, top_k=0, top_p=1.0, **sizes
    )
    hardware = find_hardware(config)
    job = dataclasses.replace(read_job(config, hardware)[0], reward_models=1)  # that of `our_ppo.py`
    vars(job)["passes"] = job.passes._replace(scored=2)  # values had a pass of their own then
    warm = [step for step in steps if step["step_number"] >= WARM]
    measured = {name: statistics.median(step[name] for step in warm) for name in PHASES}

    def least(products: float) -> dict[str, Spent]:
        return seconds_by_phase(job, hardware, ALONE, Efficiency(products, 0.0, 0.0, 0.0, products, 1.0, 0.0, 0))

    passes = sum(least(1.0)[name].total for name in ("scoring", "reward", "training"))
    products = passes / (measured["scoring"] + measured["training"])  # there, scoring includes the reward
    sampling = least(products)["sampling"]
    share = sampling.memory / (measured["sampling"] - sampling.products)
    efficiency = Efficiency(products, 0.0, 0.0, 0.0, products, share, 0.0, 0)
    predicted = sum(memory_by_part(job, hardware, ALONE, efficiency).values())
    return OnGPU(efficiency, predicted, max(step["peak_memory_mib"] for step in warm) * MIB)

"""The layout to choose, and what would fit where none does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ppo_lm.planning.hardware import Hardware
from ppo_lm.planning.job import Job
from ppo_lm.planning.layout import Layout
from ppo_lm.planning.memory import in_gib
from ppo_lm.planning.plan import USABLE, Plan, plan_for

SMALLER: dict[str, dict[str, Any]] = {  # in words, and as settings
    "gradient_checkpointing: true": {"gradient_checkpointing": True},
    "value_backbone: shared": {"value_backbone": "shared", "value_model": None},
    "lora_r: 16": {"lora_r": 16},
    "lora_r: 16 with gradient_checkpointing: true": {"lora_r": 16, "gradient_checkpointing": True},
}
MOST_DEVICES = 64  # of all hosts, to look for a number that would do


@dataclass(frozen=True)
class Choice:
    """The fastest plan of those that fit, or else the one that needs the least memory, and a sentence that says why;
    `notes`: what would make it fit."""

    plan: Plan
    reason: str
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.plan.record(), "reason": self.reason, "notes": list(self.notes)}


def choose(job: Job, hardware: Hardware) -> Choice:
    """The base in every process is preferred to a sharded one, and sampling in the trainers to servers, as long as
    they fit: both save messages and devices."""
    for candidates in (_whole(job, hardware), _with_samplers(job, hardware), _sharded(job, hardware)):
        fitting = [plan for plan in candidates if plan.fits]
        if fitting:
            plan = min(fitting, key=lambda plan: plan.step_seconds)
            return Choice(plan, _reason(plan))
    everything = [*_whole(job, hardware), *_with_samplers(job, hardware), *_sharded(job, hardware)]
    least = min(everything, key=lambda plan: plan.peak_memory)
    needed, there = in_gib(least.peak_memory), in_gib(USABLE * hardware.memory)
    reason = f"it does not fit: a device needs {needed:,.1f} GiB at least, and has {there:,.1f} to use"
    return Choice(least, reason, tuple(_what_would_fit(job, hardware)))


def _whole(job: Job, hardware: Hardware) -> list[Plan]:
    """The base in every process: on all devices, on those of one host, or on one; each process needs a response. The
    servers that the run names, if any, sample."""
    rows, samplers = job.config.batch_size, job.named_servers
    counts = {hardware.processes, min(hardware.devices, rows), 1}
    return [plan_for(job, hardware, Layout(count, samplers=samplers)) for count in sorted(counts) if count <= rows]


def _with_samplers(job: Job, hardware: Hardware) -> list[Plan]:
    if job.named_servers:  # which is `_whole` then
        return []
    return [plan_for(job, hardware, Layout(t, samplers=s)) for t, s in _split(job, hardware)]


def _sharded(job: Job, hardware: Hardware) -> list[Plan]:
    """A sharded base does not sample. What it costs to train all weights sharded is not modelled."""
    if job.trains_all_weights:
        return []
    return [plan_for(job, hardware, Layout(t, True, s)) for t, s in _split(job, hardware) if t > 1]


def _split(job: Job, hardware: Hardware) -> Iterator[tuple[int, int]]:
    """(trainers, samplers): the servers that the run names; otherwise as few samplers as hold the model, with as much
    again for keys and values, up to half."""
    if job.named_servers:
        yield hardware.processes, job.named_servers
        return
    if hardware.device_type != "cuda":
        return
    needed = 2 * job.sizes.weights * job.network.dtype.itemsize
    samplers = max(int(-(-needed // (USABLE * hardware.memory))), 1)
    while samplers <= hardware.processes // 2:
        trainers = hardware.processes - samplers
        if trainers <= job.config.batch_size and trainers % hardware.hosts == 0:  # torchrun: as many on every host
            yield trainers, samplers
        samplers *= 2


def _reason(plan: Plan) -> str:
    layout, used = plan.layout, f"{plan.peak_memory / plan.hardware.memory:.0%} of a device's memory"
    if layout.sharded:
        return (
            f"the base is too big for one device, so {layout.trainers} hold a part each ({used}) and {layout.samplers} "
            "serve vLLM"
        )
    if plan.job.named_servers:
        return (
            f"{layout.trainers} of the devices train ({used}), and the servers of engine_urls sample, each taken to be "
            "one more device of this kind"
        )
    if layout.samplers:
        return (
            f"a device has no room for the sampler beside what it trains, so {layout.trainers} train ({used}) and "
            f"{layout.samplers} serve vLLM"
        )
    if layout.trainers == 1:
        faster = "" if plan.hardware.processes == 1 else "; more processes would not make a step faster"
        return f"everything fits into one device ({used}){faster}"
    return f"the base fits into every device ({used}), so each process has all of it and takes its share of the rows"


def _what_would_fit(job: Job, hardware: Hardware) -> Iterator[str]:
    for words, settings in SMALLER.items():
        changed = {name: value for name, value in settings.items() if getattr(job.config, name) != value}
        smaller = replace(job, config=replace(job.config, **settings))
        found = _best(smaller, hardware)
        if changed and found is not None:
            yield f"it would fit with {words} ({in_gib(found.peak_memory):,.1f} GiB)"
            break
    count = 2 * hardware.processes
    while hardware.device_type == "cuda" and count <= MOST_DEVICES:
        hosts = -(-count // 8)
        found = _best(job, hardware._replace(devices=count // hosts, hosts=hosts))
        if found is not None:
            yield f"it would fit on {count} devices ({in_gib(found.peak_memory):,.1f} GiB each)"
            break
        count *= 2


def _best(job: Job, hardware: Hardware) -> Plan | None:
    """A plan that fits, if there is one."""
    plans = (*_whole(job, hardware), *_with_samplers(job, hardware), *_sharded(job, hardware))
    return next((plan for plan in plans if plan.fits), None)

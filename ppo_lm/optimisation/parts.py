"""Optimisers and schedules by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from ppo_lm.config.optimiser_settings import OptimiserSettings
from ppo_lm.errors import ConfigError, first_line
from ppo_lm.plugins import Registry
from ppo_lm.user_code import user_code

MakeOptimiser = Callable[..., torch.optim.Optimizer]  # make(weights, lr=float, eps=float)
Decay = Callable[[float], float]  # the fraction of the run, 0 to 1 → the fraction of the peak rate


class FromTransformers(NamedTuple):
    """A schedule of transformers, by its name there."""

    name: str
    options: dict[str, float]


Schedule = Decay | FromTransformers
OPTIMISERS: Registry[MakeOptimiser] = Registry("optimiser")
SCHEDULES: Registry[Schedule] = Registry("lr_schedule")
TRIED = 100  # points of the run at which a schedule is tried


class OptimiserParts(NamedTuple):
    """What makes an `Optimiser`."""

    make: MakeOptimiser
    schedule: Schedule


def find_optimiser_parts(config: OptimiserSettings, in_slices: bool = False) -> OptimiserParts:
    """The optimiser and the schedule that a configuration names, both tried. `in_slices`: each process will update a
    slice of every weight. Raises one `ConfigError` for all that cannot be found or used."""
    make, schedule, problems = None, None, []
    try:
        make = OPTIMISERS.find(config.optimiser)
        try_optimiser(config.optimiser, make)
        if in_slices:
            try_slices(config.optimiser, make)
    except ConfigError as error:
        problems += error.problems
    try:
        schedule = SCHEDULES.find(config.lr_schedule)
        if not isinstance(schedule, FromTransformers):
            factors(schedule, TRIED, config.lr_schedule)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    assert make is not None and schedule is not None  # or there would be a problem
    return OptimiserParts(make, schedule)


def adamw(weights: Sequence[torch.Tensor], lr: float, eps: float) -> torch.optim.AdamW:
    """AdamW without weight decay."""
    return torch.optim.AdamW(weights, lr=lr, eps=eps, weight_decay=0.0, fused=True)


def inverse(share: float) -> float:
    """The fraction of the peak rate after this share of the run: a half after 10% of it, a quarter after 25%, zero at
    the end."""
    return max(0.0, 1.0 - share) / (1.0 + 8.0 * share)


def try_optimiser(spec: str, make: MakeOptimiser) -> None:
    """Make one update of two small weights. Raises `ConfigError` unless `make` returns an optimiser of exactly these,
    which needs no closure and keeps nothing but tensors and plain numbers, so that a checkpoint can hold it."""
    weights = [torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2)]
    with user_code(f"optimiser {spec!r}", "when tried on two small weights", ConfigError.of):
        made: Any = make(weights, lr=1e-3, eps=1e-5)
        if not isinstance(made, torch.optim.Optimizer):
            raise ConfigError.of(
                f"optimiser {spec!r} returned {type(made).__name__}; it must return a torch.optim.Optimizer"
            )
        held = [id(weight) for group in made.param_groups for weight in group["params"]]
        if sorted(held) != sorted(map(id, weights)):
            raise ConfigError.of(
                f"optimiser {spec!r} was given 2 weights but updates {len(held)}; it must update each of those given"
            )
        closure = inspect.signature(made.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise ConfigError.of(f"optimiser {spec!r} needs a closure, so it cannot be used here; choose another")
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        made.step()
        kept = [*made.state.values(), *made.param_groups]
    for name, value in ((name, value) for values in kept for name, value in values.items() if name != "params"):
        if not _can_be_saved(value):
            raise ConfigError.of(
                f"optimiser {spec!r} keeps {name!r}, of type {type(value).__name__}, which a checkpoint cannot hold; "
                "it may keep tensors, numbers and texts"
            )


def try_slices(spec: str, make: MakeOptimiser) -> None:
    """Make a few updates of a small weight, and of its halves. Raises `ConfigError` unless they come to the same."""
    start = torch.linspace(-1, 1, 8).view(4, 2)
    whole: list[torch.Tensor] = [torch.nn.Parameter(start.clone())]
    halves: list[torch.Tensor] = [torch.nn.Parameter(half.clone()) for half in start.chunk(2)]
    with user_code(f"optimiser {spec!r}", "when tried on a small weight and its halves", ConfigError.of):
        for weights in (whole, halves):
            made = make(weights, lr=1e-2, eps=1e-5)
            for gradient in (start, start.square(), 1 - start):
                for weight, part in zip(weights, gradient.chunk(len(weights))):
                    weight.grad = part.clone()
                made.step()
    if not torch.allclose(torch.cat(whole), torch.cat(halves)):
        raise ConfigError.of(
            f"optimiser {spec!r} updates an entry of a weight by what the others are, but with shard_base and lora_r 0 "
            "each process has only a slice of the weight; use one that works entry by entry, such as adamw, or set "
            "shard_base to false"
        )


def _can_be_saved(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_can_be_saved(each) and not isinstance(each, torch.Tensor) for each in value)
    return value is None or isinstance(value, (torch.Tensor, bool, int, float, str))


def factors(schedule: Decay, steps: int, spec: str) -> list[float]:
    """The schedule after 0, 1, …, `steps` of `steps` updates. `spec`: its name, for messages. Raises `ConfigError`
    unless each is a finite number of at least 0."""
    found = []
    for step in range(steps + 1):
        share = step / steps
        with user_code(f"lr_schedule {spec!r}", f"at {share:g} of the run", ConfigError.of):
            value = schedule(share)
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise ConfigError.of(
                f"lr_schedule {spec!r} returned {type(value).__name__} at {share:g} of the run ({first_line(error)}); "
                "it must return a number"
            ) from None
        if not 0 <= number < math.inf:
            raise ConfigError.of(
                f"lr_schedule {spec!r} is {number:g} at {share:g} of the run; it must be a finite number of at least 0"
            )
        found.append(number)
    return found


OPTIMISERS.register("adamw")(adamw)
SCHEDULES.register("linear")(FromTransformers("linear", {}))
SCHEDULES.register("cubic")(FromTransformers("polynomial", {"power": 3, "lr_end": 0.0}))
SCHEDULES.register("inverse")(inverse)
SCHEDULES.register("cosine")(FromTransformers("cosine", {}))
SCHEDULES.register("constant")(FromTransformers("constant", {}))

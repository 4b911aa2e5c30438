"""An optimiser and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils import clip_grads_with_norm_
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from ppo_lm.distributed.slices import is_sharded, own_slice, sharded_like, slice_like
from ppo_lm.errors import NumericalFault
from ppo_lm.optimisation.parameters import gradient_norm, stand_in
from ppo_lm.optimisation.parts import FromTransformers, MakeOptimiser, Schedule, adamw, factors

SCHEDULED = ("params", "lr", "initial_lr")  # in a group of torch's optimisers, what it does not decide itself


class Optimiser:
    """An optimiser of torch, gradient clipping, and a schedule that counts optimiser steps.

    Weights of lower precision than fp32 have an fp32 master copy, which accumulates gradients and takes the updates;
    the weights are that copy, rounded ("Mixed precision training", 1710.03740). Of a sharded weight, each process
    updates its own slice, from gradients that are added up already.
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        learning_rate: float,
        *,
        schedule: Schedule,
        total_steps: int,
        max_grad_norm: float,
        warmup_steps: int = 0,
        epsilon: float = 1e-5,  # as in OpenAI's PPO (2403.17031)
        make: MakeOptimiser = adamw,
    ):
        self.weights = [weight for weight in weights if weight.requires_grad]
        self.parameters = [stand_in(weight) for weight in self.weights]
        self.max_grad_norm = max_grad_norm
        self.inner = make(self.parameters, lr=learning_rate, eps=epsilon)
        self._groups = [deepcopy(_options(group)) for group in self.inner.param_groups]  # as they were made
        self.steps_done = 0
        self._holds_back, self._waits = False, False
        self.scheduler = make_schedule(schedule, self.inner, warmup_steps, max(total_steps, 1))

    @property
    def learning_rate(self) -> float:
        return float(self.scheduler.get_last_lr()[0])

    def step(self) -> float:
        """`clip`, then `update`. Returns the norm before clipping."""
        norm = self.clip()
        self.update()
        return norm

    def clip(self) -> float:
        """Clip the gradients to the norm `max_grad_norm`. Returns the norm before clipping. If that is NaN or infinite,
        clears the gradients and raises `NumericalFault`; no weight has changed."""
        slices = [own for weight, own in zip(self.weights, self.parameters) if is_sharded(weight)]
        total = gradient_norm(self.replicated, slices)
        clip_grads_with_norm_(self.parameters, self.max_grad_norm, total)
        norm = float(total)
        if not math.isfinite(norm):
            self.forget_gradients()
            raise NumericalFault(f"the gradient is NaN or infinite in update {self.steps_done + 1}")
        return norm

    @property
    def replicated(self) -> list[torch.Tensor]:
        """The parameters whose gradients are of this process's rows alone: those of weights that are not sharded."""
        return [parameter for weight, parameter in zip(self.weights, self.parameters) if not is_sharded(weight)]

    def update(self) -> None:
        """Update the weights, advance the schedule, and clear the gradients; deferred after `hold_back`."""
        if self._holds_back:
            self._waits = True
            return
        self.inner.step()
        self._round()
        self.scheduler.step()
        self.steps_done += 1
        self.forget_gradients()

    def hold_back(self) -> None:
        """Defer `update` until `catch_up`, keeping the gradients."""
        self._holds_back = True

    def catch_up(self) -> None:
        """Make the deferred update, if any."""
        self._holds_back = False
        if self._waits:
            self._waits = False
            self.update()

    def let_go(self) -> None:
        """Stop deferring, and drop a deferred update."""
        if self._waits:
            self.forget_gradients()
        self._holds_back, self._waits = False, False

    def skip(self, steps: int) -> None:
        """Skip `steps` updates: drop the gradients and only advance the schedule."""
        if steps == 0:
            return
        self.forget_gradients()
        for _ in range(steps):
            self.scheduler.step()
        self.steps_done += steps

    def restart_schedule(self) -> None:
        """Return to the first update of the schedule; weights and moments stay."""
        self._move_schedule_to(0)

    def forget_gradients(self) -> None:
        """Clear the gradients accumulated so far."""
        self.inner.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """What the optimiser keeps of each weight, such as moments, and the fp32 copies, by weight index, sharded as
        the weight is; what it has changed in its groups, by their index; and the number of updates."""
        state = self.inner.state
        kept = {
            f"{place}.{name}": self._sharded(place, value)
            for place, weight in enumerate(self.parameters)
            if weight in state
            for name, value in state[weight].items()
        }
        changed = {
            f"group {place}.{name}": value
            for place, (group, made) in enumerate(zip(self.inner.param_groups, self._groups, strict=True))
            for name, value in _options(group).items()
            if name not in made or not _equal(value, made[name])
        }
        copies = {f"fp32.{place}": self._sharded(place, copy.detach()) for place, copy in self._copies()}
        return {**kept, **changed, **copies, "steps_done": self.steps_done}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, whole or sharded; weights that are fp32 themselves are not touched. The
        learning rate is that of this optimiser's own schedule after as many updates."""
        self.forget_gradients()
        saved = _by_prefix(state)
        self._restore_state(saved)
        self._restore_groups(saved)
        for place, copy in self._copies():
            copy.copy_(slice_like(self.weights[place], state[f"fp32.{place}"]))
        self._round()
        self._move_schedule_to(state["steps_done"])

    def _restore_state(self, saved: Mapping[str, Mapping[str, Any]]) -> None:
        places = {parameter: place for place, parameter in enumerate(self.parameters)}
        self.inner.state.clear()
        for group in self.inner.param_groups:
            counts_on_device = group.get("fused") or group.get("capturable")  # torch's optimisers count on the CPU
            for parameter in group["params"]:
                place = places[parameter]
                for name, value in saved.get(str(place), {}).items():
                    device = "cpu" if name == "step" and not counts_on_device else parameter.device
                    own = slice_like(self.weights[place], value) if isinstance(value, torch.Tensor) else value
                    self.inner.state[parameter][name] = _copied(own, device)

    def _restore_groups(self, saved: Mapping[str, Mapping[str, Any]]) -> None:
        for place, (group, made) in enumerate(zip(self.inner.param_groups, self._groups, strict=True)):
            for name in _options(group).keys() - made.keys():
                del group[name]
            device = group["params"][0].device
            group |= {
                name: _copied(value, device) for name, value in {**made, **saved.get(f"group {place}", {})}.items()
            }

    def _move_schedule_to(self, steps: int) -> None:
        rates = [
            base * share(steps) for base, share in zip(self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True)
        ]
        self.steps_done = steps
        place = {"last_epoch": steps, "_step_count": steps + 1, "_last_lr": rates}
        self.scheduler.load_state_dict({**self.scheduler.state_dict(), **place})
        for group, rate in zip(self.inner.param_groups, rates, strict=True):
            group["lr"] = rate

    def snapshot(self) -> dict[str, Any]:
        """Copies, on the weights' own device, of everything an update changes."""
        weights = {f"weight.{place}": parameter for place, parameter in self._fp32_weights()}
        return {
            name: value.detach().clone() if isinstance(value, torch.Tensor) else deepcopy(value)
            for name, value in (self.state_dict() | weights).items()
        }

    @torch.no_grad()
    def go_back_to(self, snapshot: Mapping[str, Any]) -> None:
        """Undo every update since `snapshot`."""
        for place, parameter in self._fp32_weights():
            parameter.copy_(snapshot[f"weight.{place}"])
        self.load_state_dict(snapshot)

    def _sharded(self, place: int, value: Any) -> Any:
        """What is kept of a weight, sharded as it is."""
        return sharded_like(self.weights[place], value) if isinstance(value, torch.Tensor) else value

    def _fp32_weights(self) -> list[tuple[int, torch.Tensor]]:
        """The parameters that are not copies, by index; the other weights are rounded from their copies."""
        return [(place, own) for place, own in enumerate(self.parameters) if self.weights[place].dtype == own.dtype]

    def _copies(self) -> list[tuple[int, torch.Tensor]]:
        return [(place, copy) for place, copy in enumerate(self.parameters) if self.weights[place].dtype != copy.dtype]

    @torch.no_grad()
    def _round(self) -> None:
        for place, copy in self._copies():
            own_slice(self.weights[place]).copy_(copy)


def make_schedule(
    schedule: Schedule, optimiser: torch.optim.Optimizer, warmup_steps: int, total_steps: int
) -> LambdaLR:
    """The schedule, after a linear warm-up. One that is not from transformers is computed here for the whole run, so
    that no update can fail in it."""
    if isinstance(schedule, FromTransformers):
        made = get_scheduler(
            schedule.name,
            optimiser,
            num_warmup_steps=warmup_steps,
            num_training_steps=total_steps,
            scheduler_specific_kwargs=dict(schedule.options),
        )
        return cast("LambdaLR", made)  # as are all that are registered
    falling = max(total_steps - warmup_steps, 1)
    fractions = factors(schedule, falling, getattr(schedule, "__name__", type(schedule).__name__))

    def fraction(step: int) -> float:
        return step / warmup_steps if step < warmup_steps else fractions[min(step - warmup_steps, falling)]

    return LambdaLR(optimiser, fraction)


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a group of torch's optimiser that the optimiser itself decides."""
    return {name: value for name, value in group.items() if name not in SCHEDULED}


def _equal(value: object, other: object) -> bool:
    if isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(value, other)
    return type(value) is type(other) and value == other


def _copied(value: Any, device: torch.device | str) -> Any:
    return value.to(device, copy=True) if isinstance(value, torch.Tensor) else deepcopy(value)


def _by_prefix(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The values whose names are PREFIX.NAME, by both."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        prefix, _, name = key.partition(".")
        found.setdefault(prefix, {})[name] = value
    return found

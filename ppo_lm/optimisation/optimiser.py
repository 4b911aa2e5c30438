"""AdamW and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from ppo_lm.errors import NumericalFault

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's state for each weight


class Optimiser:
    """AdamW without weight decay, gradient clipping, and a schedule that counts optimiser steps.

    Weights of lower precision than fp32 have an fp32 master copy, which accumulates gradients and takes the updates;
    the weights are that copy, rounded ("Mixed precision training", 1710.03740).
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        learning_rate: float,
        *,
        schedule: str,
        total_steps: int,
        max_grad_norm: float,
        warmup_steps: int = 0,
        epsilon: float = 1e-5,  # as in OpenAI's PPO (2403.17031)
    ):
        self.weights = [weight for weight in weights if weight.requires_grad]
        self.parameters = [_copy_in_fp32(weight) if weight.dtype.itemsize < 4 else weight for weight in self.weights]
        self.max_grad_norm = max_grad_norm
        self.adamw = torch.optim.AdamW(self.parameters, lr=learning_rate, eps=epsilon, weight_decay=0.0, fused=True)
        self.steps_done = 0
        self._holds_back, self._waits = False, False
        self.scheduler = make_schedule(schedule, self.adamw, warmup_steps, max(total_steps, 1))

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
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm))
        if not math.isfinite(norm):
            self.forget_gradients()
            raise NumericalFault(f"the gradient is NaN or infinite in update {self.steps_done + 1}")
        return norm

    def update(self) -> None:
        """Update the weights, advance the schedule, and clear the gradients; deferred after `hold_back`."""
        if self._holds_back:
            self._waits = True
            return
        self.adamw.step()
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
        self.adamw.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """AdamW's moments and the fp32 copies, by weight index, and the number of updates."""
        state = self.adamw.state
        moments = {
            f"{place}.{moment}": state[weight][moment]
            for place, weight in enumerate(self.parameters)
            for moment in MOMENTS
            if weight in state
        }
        copies = {f"{place}.fp32": copy.detach() for place, copy in self._copies()}
        return {**moments, **copies, "steps_done": self.steps_done}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; weights that are fp32 themselves are not touched. The learning rate is
        that of this optimiser's own schedule after as many updates."""
        self.forget_gradients()
        self.adamw.state.clear()
        for place, weight in enumerate(self.parameters):
            if f"{place}.step" in state:
                self.adamw.state[weight] = {
                    moment: state[f"{place}.{moment}"].to(weight.device, copy=True) for moment in MOMENTS
                }
        for place, copy in self._copies():
            copy.copy_(state[f"{place}.fp32"])
        self._round()
        self._move_schedule_to(state["steps_done"])

    def _move_schedule_to(self, steps: int) -> None:
        rates = [
            base * share(steps) for base, share in zip(self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True)
        ]
        self.steps_done = steps
        place = {"last_epoch": steps, "_step_count": steps + 1, "_last_lr": rates}
        self.scheduler.load_state_dict({**self.scheduler.state_dict(), **place})
        for group, rate in zip(self.adamw.param_groups, rates, strict=True):
            group["lr"] = rate

    def snapshot(self) -> dict[str, Any]:
        """Copies, on the weights' own device, of everything an update changes."""
        weights = {f"{place}.weight": weight for place, weight in self._fp32_weights()}
        return {
            name: value.detach().clone() if isinstance(value, torch.Tensor) else value
            for name, value in (self.state_dict() | weights).items()
        }

    @torch.no_grad()
    def go_back_to(self, snapshot: Mapping[str, Any]) -> None:
        """Undo every update since `snapshot`."""
        for place, weight in self._fp32_weights():
            weight.copy_(snapshot[f"{place}.weight"])
        self.load_state_dict(snapshot)

    def _fp32_weights(self) -> list[tuple[int, nn.Parameter]]:
        """The weights without a copy, by index; the others are rounded from their copies."""
        pairs = zip(self.weights, self.parameters)
        return [(place, weight) for place, (weight, copy) in enumerate(pairs) if weight is copy]

    def _copies(self) -> list[tuple[int, torch.Tensor]]:
        return [(i, copy) for i, (weight, copy) in enumerate(zip(self.weights, self.parameters)) if weight is not copy]

    @torch.no_grad()
    def _round(self) -> None:
        for i, copy in self._copies():
            self.weights[i].copy_(copy)


def make_schedule(name: str, adamw: torch.optim.AdamW, warmup_steps: int, total_steps: int) -> LambdaLR:
    """The schedule that `PPOConfig.lr_schedule` names, after a linear warm-up."""
    if name == "inverse":
        falling = max(total_steps - warmup_steps, 1)
        return LambdaLR(
            adamw, lambda step: step / warmup_steps if step < warmup_steps else inverse((step - warmup_steps) / falling)
        )
    name, shape = ("polynomial", {"power": 3, "lr_end": 0.0}) if name == "cubic" else (name, {})
    made = get_scheduler(
        name, adamw, num_warmup_steps=warmup_steps, num_training_steps=total_steps, scheduler_specific_kwargs=shape
    )
    return cast("LambdaLR", made)  # as are all schedules with a name that `PPOConfig.lr_schedule` accepts


def inverse(share: float) -> float:
    """The fraction of the peak rate after this share of the run: a half after 10% of it, a quarter after 25%, zero at
    the end."""
    return max(0.0, 1.0 - share) / (1.0 + 8.0 * share)


def _copy_in_fp32(weight: nn.Parameter) -> torch.Tensor:
    """An fp32 copy of `weight` that accumulates its gradients; `weight` itself keeps none."""
    copy = weight.detach().float().requires_grad_()

    def move_gradient(_: torch.Tensor) -> None:
        gradient = weight.grad
        assert gradient is not None  # the hook runs once it is there
        copy.grad = gradient.float() if copy.grad is None else copy.grad.add_(gradient)
        weight.grad = None

    weight.register_post_accumulate_grad_hook(move_gradient)
    return copy

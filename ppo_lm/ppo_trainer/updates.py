"""The optimiser steps of one PPO step, of all models side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ppo_lm.distributed import processes
from ppo_lm.errors import NumericalFault
from ppo_lm.experience_buffer import (
    MemoryBudget,
    MicroBatch,
    collect_from_micro_batches,
    own_pairs,
    try_micro_batches,
)
from ppo_lm.models import PolicyModel, ValueModel
from ppo_lm.optimisation import Optimiser
from ppo_lm.progress import phase
from ppo_lm.types import SAPairs


class Size(NamedTuple):
    """The size of a mini-batch."""

    tokens: int  # sampled ones
    sequences: int


class Part(NamedTuple):
    """What one micro-batch adds to its mini-batch: its share of the loss, and sums over its tokens for metrics."""

    loss: torch.Tensor
    sums: dict[str, torch.Tensor]


PartLoss = Callable[[SAPairs, Size], Part]  # of a micro-batch, and its mini-batch's size
Sums = dict[str, torch.Tensor]
BEFORE_UPDATES = ("sampler_gap",)  # sums that are only meaningful in the first mini-batch


class Begun(NamedTuple):
    """What `begin_update` found: the values (B, A) fp32, and this process's sums for metrics."""

    values: torch.Tensor
    sums: Sums


class Training:
    """The updates of one PPO step to what is passed together: one model, or two with a shared trunk.

    `optimisers`: by the name of the model. `model`: whose passes these are. `mini_batches`: one for each update.
    `target_kl`: the KL, in nats per token, at which the rest of the updates is left out; 0 for none.
    """

    def __init__(
        self,
        optimisers: Mapping[str, Optimiser],
        model: PolicyModel | ValueModel,
        mini_batches: Iterator[SAPairs],
        part_loss: PartLoss,
        target_kl: float = 0.0,
    ):
        self.optimisers, self.model, self.mini_batches, self.part_loss = optimisers, model, mini_batches, part_loss
        self.target_kl, self.went_too_far = target_kl, False
        self.updates, self._tokens = 0, 0
        self._sums: dict[str, Any] = {}
        self._norms: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._begun: Sums | None = None

    def begin(self, sums: Sums) -> None:
        """The gradients of the first update are there already. `sums`: over this process's tokens, for metrics."""
        self._begun = sums

    def take_begun(self) -> Sums | None:
        """What `begin` was given, for the first update only."""
        begun, self._begun = self._begun, None
        return begun

    def update(self, batch: SAPairs, sums: Sums) -> None:
        """Step with the gradients of a mini-batch, unless the policy has gone too far. `sums`: over its tokens."""
        self._first = self._first or {name: _mean(sums[name], batch) for name in BEFORE_UPDATES if name in sums}
        _add(self._sums, sums)
        self._tokens += len(batch)
        if self.target_kl and self.updates and self._mean_kl(batch, sums) > self.target_kl:
            self.went_too_far = True
            return
        _add(self._norms, {f"{name}_grad_norm": optimiser.step() for name, optimiser in self.optimisers.items()})
        self.updates += 1

    def finish(self, updates: int) -> dict[str, float]:
        """Skip those of `updates` that were not made. Returns means over tokens and optimiser steps."""
        for optimiser in self.optimisers.values():
            optimiser.skip(updates - self.updates)
        means = {name: float(value) / self._tokens for name, value in self._sums.items()}
        made = {"policy_updates": float(self.updates)} if "policy" in self.optimisers else {}
        return means | self._first | made | {name: norm / self.updates for name, norm in self._norms.items()}

    @staticmethod
    def _mean_kl(batch: SAPairs, sums: Sums) -> float:
        """How far the policy has moved from the one that sampled the batch, in nats per token; 0 for a value model
        alone."""
        kl = _mean(sums["approx_kl"], batch) if "approx_kl" in sums else 0.0
        if not math.isfinite(kl):
            raise NumericalFault("the KL to the policy that sampled is NaN or infinite")
        return kl


def train_side_by_side(trainings: Sequence[Training], updates: int, budget: MemoryBudget) -> dict[str, float]:
    """Make `updates` updates in every training, the first of each, then the second of each: they do not depend on each
    other, so that several processes can share the passes of all. With two models, half of the processes pass each,
    unless their weights are sharded, or the gradients of one are there already. Returns the metrics of all."""
    names = " and ".join(name for training in trainings for name in training.optimisers)
    with phase(f"training the {names}", updates, "updates") as progress:
        while progress.done < updates:
            going = [training for training in trainings if not training.went_too_far]
            if not going:
                break
            batches = [next(training.mini_batches) for training in going]
            for training, batch, sums in zip(going, batches, _accumulate(going, batches, budget)):
                training.update(batch, sums)
            progress.done += 1
    return {name: value for training in trainings for name, value in training.finish(updates).items()}


def begin_update(
    model: ValueModel,
    optimiser: Optimiser,
    sa_pairs: SAPairs,
    part_loss: Callable[[SAPairs, Size], tuple[torch.Tensor, Part]],
    budget: MemoryBudget,
) -> Begun:
    """Predict the values of pairs that are one mini-batch, and accumulate the gradients of its update in the same pass.
    `part_loss`: of a micro-batch, also returns its values (b, a)."""
    size, sums = Size(len(sa_pairs), sa_pairs.sequences), {}

    def work(part: SAPairs, counts: bool) -> torch.Tensor:
        values, found = part_loss(part, size)
        _add_gradients(model, found, counts, sums)
        return values.detach()

    def start_over() -> None:
        sums.clear()
        optimiser.forget_gradients()

    return Begun(collect_from_micro_batches(sa_pairs, budget, work, start_over), sums)


def _accumulate(trainings: Sequence[Training], batches: Sequence[SAPairs], budget: MemoryBudget) -> list[Sums]:
    """Accumulate the gradients of each training's mini-batch over its micro-batches, unless that has been done. Returns
    sums for metrics."""
    begun = [training.take_begun() for training in trainings]
    found: list[Sums] = [{} if sums is None else sums for sums in begun]
    waiting = [place for place, sums in enumerate(begun) if sums is None]
    if waiting:
        _accumulate_own(
            [trainings[i] for i in waiting], [batches[i] for i in waiting], [found[i] for i in waiting], budget
        )
    _complete(found, batches[0].action_mask.device)
    optimisers = [optimiser for training in trainings for optimiser in training.optimisers.values()]
    weights = [weight for optimiser in optimisers for weight in optimiser.replicated]
    processes().add_up_gradients(weights, [value for sums in found for value in sums.values()])
    return found


def _accumulate_own(
    trainings: Sequence[Training], batches: Sequence[SAPairs], found: Sequence[Sums], budget: MemoryBudget
) -> None:
    """Pass this process's share of the mini-batches, adding to the gradients and to the sums in `found`."""
    sizes = [Size(len(batch), batch.sequences) for batch in batches]
    own = own_pairs(batches, budget.in_step)

    def work(micro: MicroBatch) -> None:
        place, share, _ = own[micro.place]
        part = trainings[place].part_loss(micro.pairs, sizes[place])
        _add_gradients(trainings[place].model, part, share.counts and micro.counts, found[place])

    def start_over() -> None:
        for sums in found:
            sums.clear()
        for training in trainings:
            for optimiser in training.optimisers.values():
                optimiser.forget_gradients()

    try_micro_batches([pairs for _, _, pairs in own], budget, work, start_over)


def _add_gradients(model: PolicyModel | ValueModel, part: Part, counts: bool, sums: Sums) -> None:
    """Add the gradients of a micro-batch, and its sums for metrics, if it counts."""
    with model.base.role(model.role):  # checkpointed activations are recomputed in here
        (part.loss if counts else part.loss * 0).backward()
    _add(sums, {name: value.detach() * counts for name, value in part.sums.items()})


def _complete(found: list[Sums], device: torch.device) -> None:
    """Add 0 for the sums that only other processes have; all have the same order then."""
    every = processes().of_each([{name: value.dtype for name, value in sums.items()} for sums in found])
    for place, own in enumerate(found):
        dtypes = {name: dtype for theirs in every for name, dtype in theirs[place].items()}
        found[place] = {
            name: own.get(name, torch.zeros((), dtype=dtype, device=device)) for name, dtype in dtypes.items()
        }


def _mean(total: torch.Tensor, batch: SAPairs) -> float:
    return float(total) / len(batch)


def _add(sums: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add to each sum, by name."""
    for name, number in more.items():
        sums[name] = sums[name] + number if name in sums else number

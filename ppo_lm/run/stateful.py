"""The parts of a run that determine its next step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch

from ppo_lm.distributed.slices import own_slice, slice_like

State = dict[str, Any]  # tensors, and plain values that JSON can hold


@runtime_checkable
class Stateful(Protocol):
    """Anything that changes during a run and affects its next step. Once registered with `Run.register`, it is saved in
    every checkpoint."""

    def state_dict(self) -> State:
        """Tensors and plain values by name."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> object:
        """Restore what `state_dict` returned. Raises KeyError, TypeError, ValueError or RuntimeError if the state does
        not fit."""
        ...


class Weights:
    """The weights of a model, in order."""

    def __init__(self, weights: Iterable[torch.Tensor]):
        self.weights = list(weights)

    def state_dict(self) -> State:
        """The weights themselves, by index, sharded if they are."""
        return {str(place): weight.detach() for place, weight in enumerate(self.weights)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy a state into the weights."""
        for place, weight in enumerate(self.weights):
            saved = state[str(place)]
            if saved.shape != weight.shape:
                raise ValueError(f"weight {place} has shape {tuple(weight.shape)}, but {tuple(saved.shape)} was saved")
            own_slice(weight).copy_(slice_like(weight, saved))


class RandomStream:
    """A generator of random numbers."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def state_dict(self) -> State:
        """A copy of the stream's state."""
        return {"state": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from where the state was taken."""
        self.generator.set_state(state["state"])


class GlobalRandom:
    """torch's global random streams, which dropout draws from."""

    def state_dict(self) -> State:
        """The CPU's stream, and those of all GPUs."""
        streams = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            streams |= {f"cuda:{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
        if torch.backends.mps.is_available():
            streams["mps"] = torch.mps.get_rng_state()
        return streams

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the streams of the devices that are available."""
        torch.set_rng_state(state["cpu"])
        for index in range(torch.cuda.device_count()):
            if f"cuda:{index}" in state:
                torch.cuda.set_rng_state(state[f"cuda:{index}"], index)
        if "mps" in state and torch.backends.mps.is_available():
            torch.mps.set_rng_state(state["mps"])

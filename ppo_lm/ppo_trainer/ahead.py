"""Batches that are sampled before it is their turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from ppo_lm.rollout import Sampled


@dataclass(frozen=True)
class Rollout:
    """Encoded prompts, left-padded, (B, P) int64 and (B, P) bool, and what was sampled for them."""

    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    sampled: Sampled

    def is_for(self, encoded: Sequence[Sequence[int]]) -> bool:
        """Whether it answers these prompts."""
        own = [ids[mask].tolist() for ids, mask in zip(self.prompt_ids, self.prompt_mask)]
        return own == [list(ids) for ids in encoded]


class RolloutsAhead:
    """Rollouts in the order of their batches, each by the policy of the time when it was begun. A checkpoint holds
    them: a resumed run trains on what was sampled before it was interrupted."""

    def __init__(self, device: torch.device):
        self.device = device
        self._waiting: deque[Callable[[], Rollout]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, finish: Callable[[], Rollout]) -> None:
        """The next one. `finish`: waits until it is sampled."""
        self._waiting.append(finish)

    def wait(self) -> list[Rollout]:
        """All of them, once they are sampled."""
        rollouts = [finish() for finish in self._waiting]
        self._waiting = deque(_made(rollout) for rollout in rollouts)
        return rollouts

    def clear(self) -> None:
        """Forget all of them."""
        self._waiting.clear()

    def take(self, encoded: Sequence[Sequence[int]]) -> Rollout | None:
        """The first one, which must be for these prompts; None if there is none."""
        if not self._waiting:
            return None
        rollout = self._waiting.popleft()()
        if not rollout.is_for(encoded):
            raise ValueError("the prompts are not those that were sampled ahead")
        return rollout

    def state_dict(self) -> dict[str, Any]:
        """The tensors of all rollouts, by place and name. Waits until they are sampled."""
        rollouts = self.wait()
        state: dict[str, Any] = {"rollouts": len(rollouts)}
        for place, rollout in enumerate(rollouts):
            columns = {"prompt_ids": rollout.prompt_ids, "prompt_mask": rollout.prompt_mask}
            columns |= {field.name: getattr(rollout.sampled, field.name) for field in fields(Sampled)}
            state |= {f"{place}.{name}": column for name, column in columns.items() if column is not None}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the rollouts of a checkpoint."""
        self._waiting.clear()
        for place in range(state["rollouts"]):
            columns = {
                name.partition(".")[2]: column.to(self.device)
                for name, column in state.items()
                if name.startswith(f"{place}.")
            }
            prompt_ids, prompt_mask = columns.pop("prompt_ids"), columns.pop("prompt_mask")
            self.add(_made(Rollout(prompt_ids, prompt_mask, Sampled(**columns))))


def _made(rollout: Rollout) -> Callable[[], Rollout]:
    return lambda: rollout

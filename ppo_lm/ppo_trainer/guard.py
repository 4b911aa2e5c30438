"""Stops a run that keeps failing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from ppo_lm.config import PPOConfig
from ppo_lm.errors import NumericalFault, RunStopped
from ppo_lm.ppo_trainer.faults import all_finite

Models = Mapping[str, Iterable[torch.Tensor]]  # the weights of each, by its name in messages


class StepGuard:
    """Counts the steps skipped in a row. Saved in every checkpoint."""

    def __init__(self, config: PPOConfig):
        self.config, self.skipped_in_a_row = config, 0

    def passed(self, step: int, kl: float) -> None:
        """Step `step` trained. Raises `RunStopped` if its `kl`, in nats per response, exceeds `kl_limit`."""
        config, self.skipped_in_a_row = self.config, 0
        if config.kl_limit and kl > config.kl_limit:
            raise RunStopped(
                f"step {step}: the KL to the reference is {kl:.1f} nats per response, over kl_limit "
                f"{config.kl_limit:g}; start again with a higher kl_coef ({config.kl_coef:g}) or a lower learning_rate "
                f"({config.learning_rate:g})"
            )

    def skipped(self, step: int, fault: NumericalFault, models: Models) -> None:
        """Step `step` was skipped. Raises `RunStopped` after `max_dropped` in a row, or at once if a weight of `models`
        is NaN or infinite."""
        self.skipped_in_a_row += 1
        broken = next((name for name, weights in models.items() if not all_finite(weights)), None)
        if broken:
            raise RunStopped(f"step {step}: weights of {broken} are NaN or infinite, so no further step can succeed")
        if self.skipped_in_a_row >= self.config.max_dropped:
            raise RunStopped(
                f"step {step}: {self.skipped_in_a_row} steps in a row were skipped, the last one because {fault}; all "
                "weights are finite, so check the reward and dropped/, lower learning_rate, or set dtype to float32"
            )

    def state_dict(self) -> dict[str, int]:
        """The count."""
        return {"skipped_in_a_row": self.skipped_in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore what `state_dict` returned."""
        self.skipped_in_a_row = state["skipped_in_a_row"]

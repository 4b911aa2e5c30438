"""Step 5: the value model's predictions."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ppo_lm.experience_buffer import MemoryBudget, compute_in_micro_batches
from ppo_lm.models import ValueModel
from ppo_lm.progress import phase
from ppo_lm.types import SAPairs


class ValueAdder:
    """Runs the value model over every state, in micro-batches: without gradients or, where the first update would pass
    the same pairs through the same weights, as the beginning of that update."""

    def __init__(
        self,
        value_model: ValueModel,
        budget: MemoryBudget | None = None,
        begin_update: Callable[[SAPairs], torch.Tensor] | None = None,
    ):
        """`begin_update`: also returns the values, of pairs with `rewards`; see `ModelTrainer.begin_value_update`."""
        self.value_model, self.budget, self.begin_update = value_model, budget or MemoryBudget(), begin_update

    def add_values_to_sa_pairs(self, sa_pairs: SAPairs) -> SAPairs:
        """Add the column `values`: V of the state before each action, 0 where masked."""
        with phase("training the value" if self.begin_update else "scoring"):
            values = (self.begin_update or self._predict)(sa_pairs)
        return sa_pairs.with_columns(values=values)

    def _predict(self, sa_pairs: SAPairs) -> torch.Tensor:
        return compute_in_micro_batches(sa_pairs, self.budget, self.value_model.values)

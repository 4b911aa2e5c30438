"""Step 5: the value model's predictions."""

from __future__ import annotations

from ppo_lm.experience_buffer import MemoryBudget, compute_in_micro_batches
from ppo_lm.models import ValueModel
from ppo_lm.progress import phase
from ppo_lm.types import SAPairs


class ValueAdder:
    """Runs the value model over every state, in micro-batches, without gradients."""

    def __init__(self, value_model: ValueModel, budget: MemoryBudget | None = None):
        self.value_model, self.budget = value_model, budget or MemoryBudget()

    def add_values_to_sa_pairs(self, sa_pairs: SAPairs) -> SAPairs:
        """Add the column `values`: V of the state before each action, 0 where masked."""
        with phase("scoring"):
            values = compute_in_micro_batches(sa_pairs, self.budget, self.value_model.values)
        return sa_pairs.with_columns(values=values)

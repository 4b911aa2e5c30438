"""The evaluations of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ppo_lm.evaluation.evaluation import Evaluation


class EvaluationHistory:
    """All evaluations so far, by name, oldest first. Saved in every checkpoint."""

    def __init__(self) -> None:
        self.made: dict[str, list[Evaluation]] = {}

    def add(self, found: Mapping[str, Evaluation]) -> None:
        """Add the evaluations of one step."""
        for name, evaluation in found.items():
            self.made.setdefault(name, []).append(evaluation)

    def has(self, step: int) -> bool:
        """Whether `step` has already been evaluated."""
        return any(evaluations[-1].step == step for evaluations in self.made.values())

    def state_dict(self) -> dict[str, Any]:
        """All evaluations, as plain values."""
        return {name: [asdict(evaluation) for evaluation in made] for name, made in self.made.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.made = {name: [Evaluation(**values) for values in made] for name, made in state.items()}

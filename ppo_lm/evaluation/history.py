"""The evaluations of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ppo_lm.evaluation.evaluation import Evaluation


class EvaluationHistory:
    """What was measured so far: by the evaluation's name, first to last. A part of every checkpoint."""

    def __init__(self) -> None:
        self.made: dict[str, list[Evaluation]] = {}

    def add(self, found: Mapping[str, Evaluation]) -> None:
        """Take in the evaluations of one step."""
        for name, evaluation in found.items():
            self.made.setdefault(name, []).append(evaluation)

    def has(self, step: int) -> bool:
        """Whether that step was evaluated already."""
        return any(evaluations[-1].step == step for evaluations in self.made.values())

    def state_dict(self) -> dict[str, Any]:
        """All of it, as plain values."""
        return {name: [asdict(evaluation) for evaluation in made] for name, made in self.made.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo `state_dict`."""
        self.made = {name: [Evaluation(**values) for values in made] for name, made in state.items()}

"""Measuring a policy."""

from ppo_lm.evaluation.evaluation import Evaluation, evaluate, evaluate_texts, is_best
from ppo_lm.evaluation.history import EvaluationHistory
from ppo_lm.evaluation.rouge import rouge
from ppo_lm.evaluation.sampling_kinds import sampling_kinds, training_sampling

__all__ = [
    "Evaluation",
    "EvaluationHistory",
    "evaluate",
    "evaluate_texts",
    "is_best",
    "rouge",
    "sampling_kinds",
    "training_sampling",
]

"""The numbers that compare policies, from their evaluations on the same prompts."""

from __future__ import annotations

from dataclasses import dataclass

from ppo_lm.evaluation import Evaluation
from ppo_lm.evaluation.intervals import Interval, length_controlled_win_rate, mean_interval, win_rate
from ppo_lm.evaluation.statistics import distinct_n


@dataclass(frozen=True)
class Standing:
    """One policy under one kind of sampling. Intervals are 95% over prompts; the baseline has no win rates (None).

    kl: to the first model, in nats per sequence, None where it does not apply; entropy: nats per token; length: tokens;
    ended: share of completions.
    """

    name: str
    score: Interval
    win_rate: Interval | None
    length_controlled: Interval | None
    kl: float | None
    entropy: float | None
    length: float
    ended: float
    distinct_1: float
    distinct_2: float


def compare(evaluations: dict[str, Evaluation]) -> list[Standing]:
    """Compare each evaluation with the first, the baseline. All must be on the same prompts in the same order."""
    baseline_name, baseline = next(iter(evaluations.items()))
    found = []
    for name, made in evaluations.items():
        is_baseline = name == baseline_name
        found.append(
            Standing(
                name=name,
                score=mean_interval(made.scores),
                win_rate=None if is_baseline else win_rate(made.scores, baseline.scores),
                length_controlled=None
                if is_baseline
                else length_controlled_win_rate(made.scores, baseline.scores, made.lengths, baseline.lengths),
                kl=made.kl,
                entropy=made.entropy,
                length=made.length,
                ended=made.ended,
                distinct_1=distinct_n(made.texts, 1),
                distinct_2=distinct_n(made.texts, 2),
            )
        )
    return found

"""The names under which metrics are curves: those of steps as they are, those of evaluations as `EVALUATION/METRIC`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOT_METRICS = ("step", "evaluation", "dropped")  # of a row of metrics.jsonl


def series_of_row(row: Mapping[str, Any]) -> dict[str, float]:
    """The points in a row of metrics.jsonl, by series."""
    numbers = {name: value for name, value in row.items() if name not in NOT_METRICS}
    return series_of_evaluation(row["evaluation"], numbers) if "evaluation" in row else numbers


def series_of_evaluation(evaluation: str, means: Mapping[str, float]) -> dict[str, float]:
    """The points in the means of an evaluation, by series."""
    return {f"{evaluation}/{metric}": mean for metric, mean in means.items()}

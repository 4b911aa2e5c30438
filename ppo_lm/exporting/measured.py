"""What was measured on held-out data before and after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

MOMENTS = ("before", "after")  # how the supervised stages call their two evaluations


class Measured(NamedTuple):
    """The first and the last evaluation of a kind: their steps, and their means by metric (None if not finite). They
    are the same one if there is no other."""

    kind: str
    steps: tuple[int, int]
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]

    def change(self, metric: str) -> tuple[float, float] | None:
        """(before, after), if both were measured."""
        before, after = self.before.get(metric), self.after.get(metric)
        return None if before is None or after is None or self.steps[0] == self.steps[1] else (before, after)


def measured(evaluations: Sequence[Mapping[str, Any]]) -> list[Measured]:
    """The evaluations of a run, as `read_run_folder` gives them, by kind."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for evaluation in evaluations:
        kind = "held out" if evaluation["name"] in MOMENTS else evaluation["name"].replace("_", " ")
        kinds.setdefault(kind, []).append(evaluation)
    return [
        Measured(kind, (made[0]["step"], made[-1]["step"]), made[0]["means"], made[-1]["means"])
        for kind, made in kinds.items()
    ]


def data_reports(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The data reports of a run."""
    found = record["data"] if isinstance(record["data"], list) else []
    return [report for report in found if isinstance(report, dict)]


def count_examples(record: Mapping[str, Any], kind: str) -> int:
    """How many examples of a run its data reports count as `kind`, such as "held_out"."""
    return sum(report.get(kind, 0) for report in data_reports(record))

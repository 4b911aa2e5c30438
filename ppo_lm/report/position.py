"""How well a value model explains what is still to come, by where in a response it is asked."""

from __future__ import annotations

from typing import Any

import numpy as np

TENTHS = 10
FEWEST = 8  # tokens, below which a share says nothing


def explained_by_position(tokens: dict[str, Any]) -> list[float | None]:
    """1 − Var(G − V) / Var(G) over the kept tokens of the later half of the run, for each tenth of the responses: G is
    the reward-to-go, V the value. None where there are too few tokens, or G does not vary; empty without values."""
    values: list[list[float]] = [[] for _ in range(TENTHS)]
    targets: list[list[float]] = [[] for _ in range(TENTHS)]
    steps = tokens["steps"][len(tokens["steps"]) // 2 :]
    for response in (response for step in steps for response in step["responses"]):
        numbers, places = response["numbers"], np.flatnonzero(response["sampled"])
        if "values" not in numbers or "reward_to_go" not in numbers:
            return []
        for count, place in enumerate(places):
            tenth = count * TENTHS // len(places)
            values[tenth].append(numbers["values"][place])
            targets[tenth].append(numbers["reward_to_go"][place])
    return [_explained(np.array(target), np.array(value)) for target, value in zip(targets, values)] if steps else []


def _explained(target: np.ndarray, value: np.ndarray) -> float | None:
    if len(target) < FEWEST or not target.var():
        return None
    return float(1 - (target - value).var() / target.var())

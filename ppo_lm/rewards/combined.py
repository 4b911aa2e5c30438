"""Several rewards, one score."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import torch

from ppo_lm.errors import RewardError
from ppo_lm.rewards.responses import Responses
from ppo_lm.rewards.reward import Reward, RewardContext, ask, identify, make_ready
from ppo_lm.rewards.scores import Scores


class WeightedSum(Reward):
    """Σ weight · reward (see `combine`). Its parts are the rewards' own scores, by name, and their parts, as
    `reward/part`, before any clipping, normalising or weighting."""

    name = "weighted_sum"

    def __init__(
        self,
        rewards: Sequence[Reward],
        weights: Sequence[float] | None = None,
        *,
        clip: float = 0.0,
        normalise: bool = False,
        timeout: float = 0.0,
    ):
        """`timeout`: see `ask`."""
        self.rewards, self.weights, self.timeout = list(rewards), weights, timeout
        self.clip, self.normalise = clip, normalise
        self.names = unique_names([reward.name for reward in rewards])
        self.needs_columns = list(dict.fromkeys(name for reward in rewards for name in reward.needs_columns))

    def make_ready(self, context: RewardContext) -> None:
        """Make the rewards ready, in order."""
        for reward in self.rewards:
            make_ready(reward, context)
        self.models = [model for reward in self.rewards for model in reward.models]

    def identity(self) -> dict[str, object]:
        """That of each reward, by name."""
        return {name: identify(reward) for name, reward in zip(self.names, self.rewards, strict=True)}

    def score(self, responses: Responses) -> Scores:
        """The weighted sum, fp32, on the device of the sampled tokens. `plain` is the sum without normalising and, if
        normalising, without clipping."""
        parts: dict[str, torch.Tensor] = {}
        for name, reward in zip(self.names, self.rewards, strict=True):
            scores = ask(reward, responses, self.timeout)
            named = {name: scores.total} | {f"{name}/{part}": values for part, values in scores.parts.items()}
            parts |= {part: values.to(responses.device, torch.float32) for part, values in named.items()}
        components = torch.stack([parts[name] for name in self.names])
        plain = combine(components, self.weights, clip=0.0 if self.normalise else self.clip)
        if not self.normalise:
            return Scores(plain, plain, parts)
        return Scores(combine(components, self.weights, clip=self.clip, normalise=True), plain, parts)


def combine(
    components: torch.Tensor, weights: Sequence[float] | None = None, *, clip: float = 0.0, normalise: bool = False
) -> torch.Tensor:
    """Σ weight · component, (K, B) → (B,) fp32; NaN is "no opinion" and adds nothing.

    With `normalise`, each component is first shifted and scaled to mean 0 and variance 1 over its opinions in the
    batch. Then it is clipped to ± `clip` (0: no clipping). Raises `RewardError` for a completion that no reward has an
    opinion on.
    """
    silent = components.isnan().all(dim=0)
    if silent.any():
        raise RewardError(
            f"no reward has an opinion (all returned None) on completion {int(silent.nonzero()[0])} of "
            f"{components.shape[1]}; at least one must score it"
        )
    if normalise:
        components = torch.stack([_normalise(row) for row in components])
    if clip > 0:
        components = components.clamp(-clip, clip)
    factors = torch.ones(len(components)) if weights is None else torch.tensor(weights)
    return (components * factors.to(components)[:, None]).nansum(dim=0)


def _normalise(row: torch.Tensor) -> torch.Tensor:
    known = row[~row.isnan()]
    spread = known.std(correction=0) if len(known) else row.new_zeros(())
    return (row - known.mean()) / spread if spread > 0 else torch.where(row.isnan(), row, 0.0)


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, with _2, _3, … appended to repeated ones."""
    found: list[str] = []
    for name in names:
        candidates = (name if number == 1 else f"{name}_{number}" for number in count(1))
        found.append(next(candidate for candidate in candidates if candidate not in found))
    return found

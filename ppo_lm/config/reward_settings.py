"""What scores responses; shared by PPO and value modelling."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ppo_lm.config.settings import NOT_NEGATIVE, Settings


@dataclasses.dataclass
class RewardSettings(Settings):
    """One reward, or a weighted sum of several."""

    reward: list[str] | str | None = None
    """What scores a response, one or several: module:function, file.py:function, a built-in such as sentiment or
    length_target(words=30), a reward model's folder or hub id, the http address of a scorer, or "embedded"; none: TL;DR
    heuristics."""
    reward_weights: list[float] | None = None
    """The weight of each reward in the score, in order; none: 1 each."""
    reward_clip: float = 0.0
    """Clip each reward to ± this before it is weighted; 0 for none."""

    RULES: ClassVar = {NOT_NEGATIVE: ("reward_clip",)}

    @property
    def rewards(self) -> list[str]:
        """`reward` as a list; empty if none is named."""
        if self.reward is None:
            return []
        return [self.reward] if isinstance(self.reward, str) else self.reward

    def clashes(self) -> list[str]:
        clashes = super().clashes()
        if self.rewards and self.reward_weights is not None and len(self.reward_weights) != len(self.rewards):
            clashes.append(
                f"reward_weights has {len(self.reward_weights)} numbers for {len(self.rewards)} rewards; give one for "
                "each"
            )
        return clashes

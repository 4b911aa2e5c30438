"""What scores responses; shared by PPO and value modelling."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from ppo_lm.config.field_types import MAY_CHANGE, NonNegativeFloat, Topic
from ppo_lm.config.settings import Settings


@dataclasses.dataclass(kw_only=True)
class RewardSettings(Settings):
    """One reward, or a weighted sum of several."""

    REWARD = Topic("Reward")

    reward: Annotated[str | list[str] | None, MAY_CHANGE] = None  # a run compares it without addresses
    """What scores a response; repeat the option for several. A built-in such as sentiment or length_target(words=30),
    module:function, file.py:function, a reward model (folder or hub id), the http address of a service, or "embedded".
    Default: TL;DR heuristics."""
    reward_weights: list[float] | None = None
    """Weight of each reward, such as "[1, 0.5]". Default: 1 each."""
    reward_clip: NonNegativeFloat = 0.0
    """Clip each reward to ± this value before weighting; 0 for no clipping."""
    reward_timeout: Annotated[NonNegativeFloat, MAY_CHANGE] = 3600.0
    """Seconds that a reward of your own, a classifier or a service may take for a batch; then the run is saved and
    stops. 0 for no limit."""

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

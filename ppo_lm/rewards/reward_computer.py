"""Step 2: from texts to scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.models import BaseModel, RewardModel
from ppo_lm.progress import phase
from ppo_lm.rewards.combined import WeightedSum
from ppo_lm.rewards.loading import as_list_of_rewards, as_reward
from ppo_lm.rewards.responses import Responses
from ppo_lm.rewards.reward import Reward, RewardContext
from ppo_lm.rewards.scores import Scores


class RewardComputer:
    """Scores responses with one reward or the weighted sum of several. Functions `fn(prompts, completions, **columns)`
    count as rewards.

    Example::

        RewardComputer(my_function).compute_rewards(Responses(["2 + 2 ="], [" 4"])).total
    """

    def __init__(
        self,
        rewards: Reward | Callable | Sequence[Reward | Callable],
        budget: MemoryBudget | None = None,
        weights: Sequence[float] | None = None,
        clip: float = 0.0,
        normalise: bool = False,
        timeout: float = 0.0,
    ):
        """`timeout`: the seconds that a reward may take for a batch, 0 for no limit."""
        self.reward = WeightedSum(
            [as_reward(reward) for reward in as_list_of_rewards(rewards)],
            weights,
            clip=clip,
            normalise=normalise,
            timeout=timeout,
        )
        self.budget, self.timeout = budget or MemoryBudget(), timeout

    @property
    def names(self) -> list[str]:
        """The rewards' names, made unique."""
        return self.reward.names

    def identity(self) -> dict[str, object]:
        """What the scores of each reward depend on, named for messages; see `Reward.identity`."""
        return {f"reward {name!r}": identity for name, identity in self.reward.identity().items()}

    def make_ready(self, base: BaseModel) -> Sequence[RewardModel]:
        """Load what the rewards need, in order. Returns the reward models that are on `base` now."""
        self.reward.make_ready(RewardContext.on(base, self.budget))
        return self.reward.models

    def compute_rewards(self, responses: Responses) -> Scores:
        """The score of every response, (B,) fp32, with each reward's own scores by name. Raises `RewardError` if a
        reward fails, and `NumericalFault`, with the batch, for NaN or infinity."""
        with phase("reward"):
            return self.reward.score(responses)

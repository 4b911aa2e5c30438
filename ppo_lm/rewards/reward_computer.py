"""Step 2: from texts to scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from ppo_lm.data import Prompt
from ppo_lm.data.encoding import encode_pair, pad
from ppo_lm.errors import NumericalFault
from ppo_lm.experience_buffer import MemoryBudget, compute_in_micro_batches, split_by_tokens
from ppo_lm.models import RewardModel
from ppo_lm.rewards import FunctionReward, combine, response_columns, unique_names
from ppo_lm.types import SAPairs

Reward = RewardModel | Callable


class RewardComputer:
    """Scores responses by one reward or several, weighted: reward models on the shared base, functions `fn(prompts,
    completions, **columns)`, and whatever else `rewards.load_scorer` makes.

    `components` holds the last batch's scores by each reward's name, before they were normalised, clipped and weighted
    (NaN: no opinion), and `plain_scores` their weighted sum before normalising and the clipping that goes with it: the
    number to follow over a run.
    """

    def __init__(
        self,
        rewards: Reward | Sequence[Reward],
        budget: MemoryBudget | None = None,
        weights: Sequence[float] | None = None,
        clip: float = 0.0,
        normalise: bool = False,
    ):
        rewards = list(rewards) if isinstance(rewards, Sequence) else [rewards]
        self.rewards = [
            reward if hasattr(reward, "name") or isinstance(reward, RewardModel) else FunctionReward(reward)
            for reward in rewards
        ]
        self.names = unique_names([getattr(reward, "name", "reward_model") for reward in self.rewards])
        self.budget, self.weights, self.clip, self.normalise = budget or MemoryBudget(), weights, clip, normalise
        self.components: dict[str, torch.Tensor] = {}
        self.plain_scores = torch.zeros(0)

    def compute_rewards(
        self,
        prompts: list[Prompt],
        generated_texts: list[str],
        columns: Mapping[str, list] | None = None,
        sa_pairs: SAPairs | None = None,
    ) -> torch.Tensor:
        """The score of every response, (B,) fp32. Raises `NumericalFault` if a reward is NaN or infinite.

        `columns` are the data set's other columns, for functions. With `sa_pairs` a reward model reads the very tokens
        that were sampled; without, it reads the texts tokenised anew, each with an EOS unless the column `terminated`
        says that it did not end.
        """
        if sa_pairs is not None:
            columns = response_columns(columns, sa_pairs)
        try:
            scores = [self._score(reward, prompts, generated_texts, columns, sa_pairs) for reward in self.rewards]
        except NumericalFault as fault:
            fault.batch = sa_pairs
            raise
        self.components = dict(zip(self.names, scores))
        self.plain_scores = combine(torch.stack(scores), self.weights, clip=0.0 if self.normalise else self.clip)
        return combine(torch.stack(scores), self.weights, clip=self.clip, normalise=self.normalise)

    def _score(self, reward, prompts, texts, columns, sa_pairs: SAPairs | None) -> torch.Tensor:
        if isinstance(reward, RewardModel):
            ended = (columns or {}).get("terminated") or [True] * len(texts)
            return (
                self._score_texts(reward, prompts, texts, ended)
                if sa_pairs is None
                else self._score_pairs(reward, sa_pairs)
            )
        scores = [float("nan") if score is None else score for score in reward(prompts, texts, columns)]
        return torch.tensor(scores, device=None if sa_pairs is None else sa_pairs.action_ids.device)

    def _score_pairs(self, reward: RewardModel, sa_pairs: SAPairs) -> torch.Tensor:
        return check_finite(
            compute_in_micro_batches(
                sa_pairs, self.budget, lambda part: reward.scores(part.input_ids, part.attention_mask)
            )
        )

    @torch.no_grad()
    def _score_texts(
        self, reward: RewardModel, prompts: list[Prompt], texts: list[str], ended: list[bool]
    ) -> torch.Tensor:
        base, ids = reward.base, []
        for prompt, text, has_end in zip(prompts, texts, ended, strict=True):
            prompt_ids, completion_ids = encode_pair(base.tokenizer, base.eos_token_ids, prompt, text)
            ids.append(prompt_ids + (completion_ids if has_end else completion_ids[:-1]))
        scores = torch.zeros(len(ids), device=base.device)
        for rows in split_by_tokens(torch.tensor([len(tokens) for tokens in ids]), self.budget.tokens):
            scores[rows] = reward.scores(
                *pad([ids[row] for row in rows], base.pad_token_id, side="right", device=base.device)
            )
        return check_finite(scores)


def check_finite(scores: torch.Tensor) -> torch.Tensor:
    """The scores (B,) of a reward model; raises `NumericalFault` if one is NaN or infinite, which would read as "no
    opinion"."""
    if not scores.isfinite().all():
        raise NumericalFault("the reward model gave a score that is no finite number; its weights may be damaged")
    return scores

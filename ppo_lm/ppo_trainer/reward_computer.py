"""Step 2: from texts to scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ppo_lm.data.encoding import encode_completion, encode_prompt, pad
from ppo_lm.experience_buffer import micro_batches
from ppo_lm.models import RewardModel
from ppo_lm.rewards import FunctionReward
from ppo_lm.types import SAPairs


class RewardComputer:
    """Scores responses with a reward model on the shared base, or with a function `fn(prompts, completions, **columns)`."""

    def __init__(self, reward: RewardModel | Callable, micro_batch_size: int = 8):
        if not isinstance(reward, (RewardModel, FunctionReward)):
            reward = FunctionReward(reward)
        self.reward, self.micro_batch_size = reward, micro_batch_size

    def compute_rewards(
        self, prompts: list[str], generated_texts: list[str], columns: Mapping[str, list] | None = None, sa_pairs: SAPairs | None = None
    ) -> torch.Tensor:
        """The score of every response, (B,) fp32.

        `columns` are the data set's other columns, for functions. With `sa_pairs` a reward model reads the very tokens that were
        sampled; without, it reads the texts tokenised anew, each with an EOS.
        """
        if isinstance(self.reward, RewardModel):
            return self._score_pairs(sa_pairs) if sa_pairs is not None else self._score_texts(prompts, generated_texts)
        if sa_pairs is None:
            return torch.tensor(self.reward(prompts, generated_texts, columns))
        columns = {**(columns or {}), "terminated": sa_pairs.terminated.tolist()}
        return torch.tensor(self.reward(prompts, generated_texts, columns), device=sa_pairs.action_ids.device)

    @torch.no_grad()
    def _score_pairs(self, sa_pairs: SAPairs) -> torch.Tensor:
        scores = torch.zeros(sa_pairs.sequences, device=sa_pairs.action_ids.device)
        for rows, part in micro_batches(sa_pairs, self.micro_batch_size):
            scores[rows] = self.reward.scores(part.input_ids, part.attention_mask)
        return scores

    @torch.no_grad()
    def _score_texts(self, prompts: list[str], generated_texts: list[str]) -> torch.Tensor:
        base = self.reward.base
        ids = [encode_prompt(base.tokenizer, p) + encode_completion(base.tokenizer, t, base.eos_token_ids[0]) for p, t in zip(prompts, generated_texts, strict=True)]
        parts = [ids[i : i + self.micro_batch_size] for i in range(0, len(ids), self.micro_batch_size)]
        return torch.cat([self.reward.scores(*pad(part, base.pad_token_id, side="right", device=base.device)) for part in parts])

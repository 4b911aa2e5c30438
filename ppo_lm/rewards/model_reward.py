"""A reward model on the shared base as a reward."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from ppo_lm.base_setup import load_reward_model
from ppo_lm.data.encoding import encode_pair, pad, same_vocabulary
from ppo_lm.distributed import as_often, processes
from ppo_lm.errors import NumericalFault, RewardError
from ppo_lm.experience_buffer import MemoryBudget, compute_in_micro_batches, split_by_tokens
from ppo_lm.fingerprint import fingerprint, fingerprint_weights
from ppo_lm.models import RewardModel
from ppo_lm.rewards.responses import Responses
from ppo_lm.rewards.reward import Reward, RewardContext
from ppo_lm.rewards.scores import Scores
from ppo_lm.types import SAPairs


class ModelReward(Reward):
    """Scores prompt and response together with a `RewardModel`, an adapter and a head on the shared base.

    Responses that were sampled here, in the base's own vocabulary, are read as exactly the tokens that were sampled.
    Others, and those that ended with a stop string, which their texts lack, are tokenised from their texts, with EOS
    appended unless the column `terminated` says that the response did not end.
    """

    name = "reward_model"

    def __init__(self, load: Callable[[RewardContext], RewardModel]):
        """`load` puts the model onto its base; called by `make_ready`."""
        self._load = load
        self._ready: tuple[RewardModel, MemoryBudget] | None = None

    @classmethod
    def saved_in(cls, folder: Path) -> ModelReward:
        """The model that `ppo-lm reward` saved in `folder`."""
        return cls(lambda context: load_reward_model(context.find_base(folder), folder))

    @classmethod
    def of(cls, model: RewardModel, micro_batch_tokens: int = 1024) -> ModelReward:
        """A model that is already loaded."""
        reward = cls(lambda context: model)
        reward.make_ready(RewardContext.on(model.base, MemoryBudget(micro_batch_tokens)))
        return reward

    def make_ready(self, context: RewardContext) -> None:
        """Load the model. Raises `ModelError` if it does not fit its base."""
        model = self._load(context)
        self.models, self._ready = (model,), (model, context.budget)

    def identity(self) -> object:
        """The weights of adapter and head, and the normalisation."""
        if self._ready is None:
            return None
        model = self._ready[0]
        weights = fingerprint_weights((str(place), weight) for place, weight in enumerate(model.parameters()))
        return fingerprint([weights, model.mean, model.std])

    def score(self, responses: Responses) -> Scores:
        """The model's scores, fp32. Raises `NumericalFault` if one is NaN or infinite."""
        if self._ready is None:
            raise RewardError(f"{self.name} is not loaded; call make_ready first")
        model, budget = self._ready
        pairs = _readable_pairs(responses, model)
        if pairs is None:
            scores = _score_texts(model, responses, budget)
        elif pairs.stopped is None:
            scores = _score_pairs(model, pairs, budget)
        else:
            scores = _score_both(model, responses, pairs, pairs.stopped.tolist(), budget)
        if not scores.isfinite().all():
            raise NumericalFault("the reward model gave a score that is NaN or infinite; its weights may be damaged")
        return Scores.of(scores)


def _readable_pairs(responses: Responses, model: RewardModel) -> SAPairs | None:
    """The sampled tokens, if there are any and the model has the same vocabulary; else None."""
    if responses.tokenizer is None or not _same_vocabulary(responses.tokenizer, model.base.tokenizer):
        return None
    return responses.sa_pairs


_same_vocabulary: Callable[[PreTrainedTokenizerBase, PreTrainedTokenizerBase], bool] = lru_cache(16)(same_vocabulary)


def _score_pairs(model: RewardModel, pairs: SAPairs, budget: MemoryBudget) -> torch.Tensor:
    return compute_in_micro_batches(pairs, budget, lambda part: model.scores(part.input_ids, part.attention_mask))


def _score_both(
    model: RewardModel, responses: Responses, pairs: SAPairs, by_text: list[bool], budget: MemoryBudget
) -> torch.Tensor:
    """The scores of the texts of some responses, and of the tokens of the others."""
    texts = [row for row, is_text in enumerate(by_text) if is_text]
    tokens = [row for row, is_text in enumerate(by_text) if not is_text]
    scores = torch.zeros(len(by_text), device=model.base.device)
    if texts:
        scores[texts] = _score_texts(model, responses.select(texts), budget)
    if tokens:
        scores[tokens] = _score_pairs(model, pairs.select(torch.tensor(tokens, device=pairs.action_ids.device)), budget)
    return scores


@torch.no_grad()
def _score_texts(model: RewardModel, responses: Responses, budget: MemoryBudget) -> torch.Tensor:
    base, ids = model.base, []
    ended = responses.columns.get("terminated") or [True] * len(responses)
    for prompt, text, has_end in zip(responses.prompts, responses.texts, ended, strict=True):
        prompt_ids, completion_ids = encode_pair(base, prompt, text)
        ids.append(prompt_ids + (completion_ids if has_end else completion_ids[:-1]))
    share = processes().share([len(tokens) for tokens in ids])
    own = [ids[row] for row in share.own]
    lengths = torch.tensor([len(tokens) for tokens in own])

    def score(micro_batch_tokens: int) -> torch.Tensor:
        scores = torch.zeros(len(own), device=base.device)
        for rows, _ in as_often(split_by_tokens(lengths, micro_batch_tokens)):
            padded = pad([own[row] for row in rows], base.pad_token_id, side="right", device=base.device)
            scores[rows] = model.scores(*padded)
        return scores

    return processes().gather_rows(share, budget.fit_tokens([lengths], score))

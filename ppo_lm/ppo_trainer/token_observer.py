"""A closer look at the tokens of a few responses than training needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from transformers import PreTrainedTokenizerBase

from ppo_lm.data import PromptSet
from ppo_lm.data.encoding import unpad
from ppo_lm.data.pieces import token_pieces, vocabulary
from ppo_lm.experience_buffer import MemoryBudget, compute_in_micro_batches, trim_padding
from ppo_lm.models import PolicyModel, SFTModel
from ppo_lm.ops import Choices
from ppo_lm.tracking import TokensSeen
from ppo_lm.types import SAPairs

ALTERNATIVES = 5  # likely tokens that are kept beside each sampled one
SUPPORTS = ("support_ids", "excluded_ids")  # columns with many numbers for a token


@dataclass(frozen=True)
class ObservedTokens:
    """The first responses of a batch. `choices`: what the policy that sampled them, and the reference, would most
    likely have said, by "policy" and "reference". `ratios`, (R, A) fp32, 0 where masked: how much more likely the
    step's training made each token, π_new(a|s) / π_old(a|s); None before training."""

    pairs: SAPairs
    choices: dict[str, Choices] = field(default_factory=dict)
    ratios: torch.Tensor | None = None


class TokenObserver:
    """Looks at the tokens of a step's first responses before and after training, if asked to. Draws no random numbers
    and trains nothing."""

    def __init__(self, policy: PolicyModel, reference: SFTModel, budget: MemoryBudget, temperature: float):
        self.models = {"policy": policy, "reference": reference}
        self.policy, self.budget, self.temperature = policy, budget, temperature
        self.rows = 0  # how many responses to look at

    @contextmanager
    def looking_at(self, rows: int) -> Iterator[None]:
        """Inside the block, look at the first `rows` responses of a batch."""
        self.rows = rows
        try:
            yield
        finally:
            self.rows = 0

    def before_training(self, sa_pairs: SAPairs) -> ObservedTokens | None:
        """The first responses of a batch, and what both models would have said."""
        if not self.rows:
            return None
        first = torch.arange(min(self.rows, sa_pairs.sequences), device=sa_pairs.action_ids.device)
        pairs = trim_padding(sa_pairs.select(first))
        return ObservedTokens(pairs, {name: self._choices(model, pairs) for name, model in self.models.items()})

    def after_training(self, seen: ObservedTokens | None) -> dict[str, ObservedTokens]:
        """`{"observed": ...}` with `ratios`; empty if nothing was seen."""
        if seen is None:
            return {}

        def logprobs(part: SAPairs) -> torch.Tensor:
            return self.policy.action_logprobs(part, self.temperature)

        change = compute_in_micro_batches(seen.pairs, self.budget, logprobs) - seen.pairs.old_logprobs
        return {"observed": replace(seen, ratios=torch.where(seen.pairs.action_mask, change.exp(), 0.0))}

    def _choices(self, model: PolicyModel | SFTModel, pairs: SAPairs) -> Choices:
        def look(part: SAPairs) -> torch.Tensor:
            found = model.top_choices(part, ALTERNATIVES, self.temperature)
            return torch.cat([found.ids.movedim(2, 0), found.logprobs.movedim(2, 0)])  # ids below 2^24 are exact

        ids, logprobs = compute_in_micro_batches(pairs, self.budget, look).movedim(0, 2).chunk(2, dim=2)
        return Choices(torch.where(pairs.action_mask[:, :, None], ids.long(), -1), logprobs)


def describe_tokens(
    step: int,
    seen: ObservedTokens,
    batch: PromptSet,
    texts: Sequence[str],
    parts: Mapping[str, Sequence[float | None]],
    tokenizer: PreTrainedTokenizerBase,
    kl_coef: float,
) -> TokensSeen:
    """What a run records of `seen`, the first responses to `batch`. `texts` and `parts`: those of the whole batch."""
    rows, pairs = seen.pairs.sequences, seen.pairs
    tensors = {name: column for name, column in pairs.columns().items() if name not in SUPPORTS}
    if seen.ratios is not None:
        tensors["ratios"] = seen.ratios
    for name, choices in seen.choices.items():
        tensors |= {f"{name}_choices": choices.ids, f"{name}_choice_logprobs": choices.logprobs}
    ids = unpad(pairs.input_ids, pairs.attention_mask)
    known = [token for row in ids for token in row]
    known += [token for choices in seen.choices.values() for token in choices.ids.flatten().tolist()]
    return TokensSeen(
        step=step,
        kl_coef=kl_coef,
        tensors=tensors,
        prompts=batch.prompts[:rows],
        prompt_columns=[{name: column[row] for name, column in batch.columns.items()} for row in range(rows)],
        completions=list(texts[:rows]),
        parts={name: list(values[:rows]) for name, values in parts.items()},
        pieces=[token_pieces(tokenizer, row) for row in ids],
        vocabulary=vocabulary(tokenizer, known),
    )

"""A batch of responses, as a reward gets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from transformers import PreTrainedTokenizerBase

from ppo_lm.data.examples import Prompt
from ppo_lm.types import SAPairs
from ppo_lm.user_code import copied

NO_TOKEN = -1


@dataclass(frozen=True)
class Responses:
    """B prompts and a response to each. `columns` are the data's, by name, and, if known, `terminated` (whether the
    response ended by itself) and `completion_ids` (its tokens). Raises `ValueError` unless all have the same length.

    `sa_pairs` are the sampled tokens, in the vocabulary of `tokenizer`; None for texts that were not sampled here.

    Example::

        Responses(
            prompts=["2 + 2 =", "2 + 3 ="],
            texts=[" 4", " 6"],
            columns={"answer": ["4", "5"], "terminated": [True, True], "completion_ids": [[604, 1], [606, 1]]},
        )
    """

    prompts: Sequence[Prompt]
    texts: Sequence[str]
    columns: Mapping[str, Sequence] = field(default_factory=dict)
    sa_pairs: SAPairs | None = None
    tokenizer: PreTrainedTokenizerBase | None = None

    def __post_init__(self):
        for name, values in {"texts": self.texts, **self.columns}.items():
            if len(values) != len(self.prompts):
                raise ValueError(f"Responses has {len(values)} {name!r} for {len(self.prompts)} prompts")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def device(self) -> torch.device:
        """Where the scores belong: with the sampled tokens, or on the CPU."""
        return torch.device("cpu") if self.sa_pairs is None else self.sa_pairs.action_ids.device

    def select(self, rows: Sequence[int]) -> Responses:
        """The responses at `rows`, in that order."""
        prompts, texts = [self.prompts[row] for row in rows], [self.texts[row] for row in rows]
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        pairs = None if self.sa_pairs is None else self.sa_pairs.select(torch.tensor(rows, device=self.device))
        return Responses(prompts, texts, columns, pairs, self.tokenizer)

    def copied(self) -> Responses:
        """The same with its own lists and messages, so that nobody else sees changes to them."""
        return replace(self, prompts=copied(self.prompts), texts=copied(self.texts), columns=copied(self.columns))

    @classmethod
    def sampled(
        cls,
        prompts: Sequence[Prompt],
        texts: Sequence[str],
        columns: Mapping[str, Sequence],
        sa_pairs: SAPairs,
        tokenizer: PreTrainedTokenizerBase,
    ) -> Responses:
        """Responses that a policy sampled; `columns` gains `terminated` and `completion_ids`, with a single copy from
        the device."""
        ids = sa_pairs.action_ids.masked_fill(~sa_pairs.action_mask, NO_TOKEN)
        copied = torch.cat([sa_pairs.terminated[:, None].long(), ids], dim=1).tolist()
        own = {
            "terminated": [bool(row[0]) for row in copied],
            "completion_ids": [[token for token in row[1:] if token != NO_TOKEN] for row in copied],
        }
        return cls(prompts, texts, {**columns, **own}, sa_pairs, tokenizer)

    @classmethod
    def written(
        cls,
        prompts: Sequence[Prompt],
        texts: Sequence[str],
        columns: Mapping[str, Sequence],
        completion_ids: Sequence[list[int]],
    ) -> Responses:
        """Responses written by someone, such as demonstrations; all count as ended. `completion_ids` are their tokens,
        end token included."""
        return cls(prompts, texts, {**columns, "terminated": [True] * len(texts), "completion_ids": completion_ids})

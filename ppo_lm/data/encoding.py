"""From texts to token ids, and from lists of ids to padded batches with masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from transformers import PreTrainedTokenizerBase

from ppo_lm.data.cutting import cut_prompt
from ppo_lm.data.examples import Prompt, is_token_ids
from ppo_lm.data.special_tokens import encode_chat, encode_text
from ppo_lm.errors import DataError, first_line

if TYPE_CHECKING:
    from ppo_lm.models import BaseModel


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, *, allow_special_tokens: bool = False
) -> list[int]:
    """The token ids of a text, with the tokenizer's start token if it has one, or of a conversation, rendered by the
    model's chat template up to the assistant's turn. Token ids are returned as they are. Texts of control tokens are
    ordinary text unless they are allowed. Raises `DataError`, worded to follow the prompt's place, if there is no
    template or it rejects the conversation."""
    if isinstance(prompt, str):
        return encode_text(tokenizer, prompt, allow_special_tokens=allow_special_tokens)
    if is_token_ids(prompt):
        return prompt
    if tokenizer.chat_template is None:
        raise DataError(
            "is a conversation, but the model's tokenizer has no chat template; use a chat model, or give plain text"
        )
    try:
        return encode_chat(tokenizer, prompt, allow_special_tokens=allow_special_tokens, add_generation_prompt=True)
    except Exception as error:  # templates may raise anything, for example on an unknown role
        raise DataError(f"is a conversation that the model's chat template rejects: {first_line(error)}") from error


def encode_for(base: BaseModel, prompt: Prompt) -> list[int]:
    """`encode_prompt` as the settings of `base` say."""
    return encode_prompt(base.tokenizer, prompt, allow_special_tokens=base.allow_special_tokens)


def encode_completion(
    tokenizer: PreTrainedTokenizerBase, completion: str, eos_token_id: int, *, allow_special_tokens: bool = False
) -> list[int]:
    """The token ids of a completion, which includes its leading space, followed by EOS (2403.17031)."""
    ids = encode_text(tokenizer, completion, allow_special_tokens=allow_special_tokens, add_special_tokens=False)
    return [*ids, eos_token_id]


def find_end_token(tokenizer: PreTrainedTokenizerBase, eos_token_ids: list[int], prompt: Prompt) -> int:
    """The token that ends a completion of this prompt: the first of the model's end tokens or, in a conversation, the
    one that the chat template writes."""
    if not isinstance(prompt, str) and len(eos_token_ids) > 1 and tokenizer.chat_template is not None:
        turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        written = encode_chat(tokenizer, turn)
        return next((token for token in reversed(written) if token in eos_token_ids), eos_token_ids[0])
    return eos_token_ids[0]


def encode_pair(base: BaseModel, prompt: Prompt, completion: str) -> tuple[list[int], list[int]]:
    """The token ids of a prompt, and of its completion including the end token."""
    tokenizer, allowed = base.tokenizer, base.allow_special_tokens
    end = find_end_token(tokenizer, base.eos_token_ids, prompt)
    return encode_for(base, prompt), encode_completion(tokenizer, completion, end, allow_special_tokens=allowed)


def fit_prompt(base: BaseModel, prompt: Prompt, max_tokens: int) -> Prompt | None:
    """The prompt, cut at the end of a sentence if it has more than `max_tokens` tokens (0: no limit); None if it cannot
    be cut that short."""
    if max_tokens == 0:
        return prompt
    return cut_prompt(prompt, lambda shorter: len(encode_for(base, shorter)) <= max_tokens)


def same_vocabulary(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether both tokenizers map every token to the same id."""
    return one is other or one.get_vocab() == other.get_vocab()


def decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The text of one row of tokens, without special tokens."""
    return cast("str", tokenizer.decode(ids, skip_special_tokens=True))  # a list only for a list of rows


def unpad(ids: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    """The rows of `ids` (B, T) int64 where `mask` (B, T) bool is True, as lists; a single copy from the device."""
    return [[token for token in row if token >= 0] for row in ids.masked_fill(~mask, -1).tolist()]


def pad(
    sequences: Sequence[Sequence[int]], pad_token_id: int, *, side: str, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad to the longest sequence, on the "left" (PPO prompts) or the "right" (SFT, reward data). Returns ids (B, T)
    int64 and mask (B, T) bool."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad_token_id, dtype=torch.int64)
    mask = torch.zeros((len(sequences), width), dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        columns = slice(width - len(sequence), width) if side == "left" else slice(0, len(sequence))
        ids[row, columns] = torch.tensor(sequence, dtype=torch.int64)
        mask[row, columns] = True
    return ids.to(device), mask.to(device)

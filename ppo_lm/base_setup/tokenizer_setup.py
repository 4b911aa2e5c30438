"""Tokenizers: padding that is not EOS, and prompts as token ids."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase


def set_up_tokenizer(tokenizer: PreTrainedTokenizerBase, eos_token_ids: list[int]) -> PreTrainedTokenizerBase:
    """Give the tokenizer a padding token that is no end-of-sequence token, taken from its special tokens, else id 0 or 1.

    Masks come from real lengths and never from `ids != pad`, so the choice changes no number; it keeps exported models from
    treating EOS as padding.
    """
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in eos_token_ids:
        candidates = [tokenizer.unk_token_id, *tokenizer.all_special_ids, 0, 1]
        pad_token_id = next(i for i in candidates if i is not None and i not in eos_token_ids)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_token_id)
    return tokenizer


def find_eos_token_ids(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a response: the tokenizer's EOS, then those of the model's generation settings."""
    ids = [tokenizer.eos_token_id]
    for source in (network.generation_config, network.config.get_text_config()):
        extra = getattr(source, "eos_token_id", None)
        ids += extra if isinstance(extra, list) else [extra]
    return list(dict.fromkeys(i for i in ids if i is not None))

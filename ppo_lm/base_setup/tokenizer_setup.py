"""The end tokens of a tokenizer and its model."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase


def find_eos_token_ids(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a response: the tokenizer's EOS, then those of the model's generation settings."""
    found: list[object] = [tokenizer.eos_token_id]
    for source in (network.generation_config, network.config.get_text_config()):
        extra = getattr(source, "eos_token_id", None)
        found += extra if isinstance(extra, list) else [extra]
    return list(dict.fromkeys(token for token in found if isinstance(token, int)))

"""The end tokens of a tokenizer and its model."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase


def find_eos_token_ids(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a response: the tokenizer's EOS, then those of the model's generation settings."""
    ids = [tokenizer.eos_token_id]
    for source in (network.generation_config, network.config.get_text_config()):
        extra = getattr(source, "eos_token_id", None)
        ids += extra if isinstance(extra, list) else [extra]
    return list(dict.fromkeys(i for i in ids if i is not None))

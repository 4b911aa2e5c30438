"""The shapes of models that can be planned without a network."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig, Qwen3Config

QWEN3 = {  # hidden size, MLP size, layers, query heads, whether input and output embeddings are one matrix
    "0.6B": (1024, 3072, 28, 16, True),
    "1.7B": (2048, 6144, 28, 16, True),
    "4B": (2560, 9728, 36, 32, True),
    "8B": (4096, 12288, 36, 32, False),
}
"""From the config.json of Qwen/Qwen3-SIZE-Base, as published on the hub; see the Qwen3 report (2505.09388), table 1."""


def published_config(model_name: str) -> PreTrainedConfig | None:
    """The configuration of Qwen/Qwen3-SIZE or its -Base; None for another model."""
    size = model_name.removeprefix("Qwen/Qwen3-").removesuffix("-Base")
    if not model_name.startswith("Qwen/Qwen3-") or size not in QWEN3:
        return None
    return Qwen3Config(**_settings(*QWEN3[size]))


def _settings(hidden: int, intermediate: int, layers: int, heads: int, tied: bool) -> dict[str, Any]:
    return {
        "vocab_size": 151_936,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": tied,
    }

"""Models of a run as plain transformers folders: the adapter merged into the weights, in float32, with one output."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, PreTrainedTokenizerBase

from ppo_lm.errors import ModelError
from ppo_lm.exporting.elsewhere.mapping import HEAD
from ppo_lm.models import BaseModel
from ppo_lm.models.loading import without_bars
from ppo_lm.models.score_head import ScoreHead

KINDS: dict[str, Any] = {  # of models with one output: for each sequence, or for each token
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
}


@torch.no_grad()
def write_with_head(
    base: BaseModel, role: str | None, head: ScoreHead, kind: str, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> float:
    """Write the network with the adapter of `role` and a head as transformers' classifier with one label. Returns the
    head's bias if the classifier's output layer has none, else 0. Raises `ModelError` if transformers has no such
    classifier for this architecture.

    Everything is in float32, so that rounding loses nothing of the adapter.
    """
    network = _blank(base, kind)
    weights = base.merged_weights(role, torch.float32).weights
    output: nn.Linear = getattr(network, HEAD)
    weights[f"{HEAD}.weight"] = head.linear.weight
    if output.bias is not None:
        weights[f"{HEAD}.bias"] = head.linear.bias
    names = network.state_dict().keys()
    network.load_state_dict({name: weight for name, weight in weights.items() if name in names})
    with without_bars():
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return 0.0 if output.bias is not None else head.linear.bias.item()


def _blank(base: BaseModel, kind: str) -> Any:
    """transformers' classifier for the base's architecture."""
    config = copy.deepcopy(base.network.config)
    config.num_labels, config.pad_token_id, config.classifier_dropout = 1, base.pad_token_id, 0.0
    try:
        network = KINDS[kind].from_config(config, dtype=torch.float32)
    except ValueError:  # there is none
        network = None
    output = getattr(network, HEAD, None)
    fits = isinstance(output, nn.Linear) and output.in_features == base.hidden_size
    if network is None or not fits or network.base_model_prefix != base.network.base_model_prefix:
        raise ModelError(
            f"transformers has no {kind} classifier for {config.model_type} models with a linear layer called {HEAD}, "
            "which the other program would load"
        )
    return network.eval()

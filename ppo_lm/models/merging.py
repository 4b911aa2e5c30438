"""Merging an adapter into the weights it adapts, and what is lost to rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from peft.tuners import lora
from torch import nn
from transformers import PreTrainedModel

WELL_KEPT = 0.99  # of the adapter; a smaller share is reported


class MergedWeights(NamedTuple):
    """`weights`: on the CPU, under the names of a network without adapters. `kept`: see `merge`."""

    weights: dict[str, torch.Tensor]
    kept: float


class MergedNetwork(NamedTuple):
    """A plain transformers network on the CPU. `kept`: see `merge`."""

    network: PreTrainedModel
    kept: float


@torch.no_grad()
def merge(
    network: nn.Module, state: Mapping[str, torch.Tensor], role: str | None, dtype: torch.dtype | None = None
) -> MergedWeights:
    """The network's weights, `state`, with the adapter of `role` added: W + ΔW, summed in fp32 and rounded to `dtype`,
    by default W's.

    `kept` is how much of the adapter survives the rounding, ⟨ΔW kept, ΔW⟩ / ⟨ΔW, ΔW⟩ over all layers: 1 in fp32, and
    without an adapter; in bf16 about 0.03 for |B| = 1e-5 and 0.99 for |B| = 1e-3.
    """
    weights = {
        name.replace(".base_layer.", "."): value.to("cpu", dtype)
        for name, value in state.items()
        if ".lora_" not in name
    }
    kept = whole = 0.0
    for name, module in network.named_modules():
        if role is not None and isinstance(module, lora.Linear) and role in module.lora_A:
            weight, delta = weights[f"{name}.weight"].float(), module.get_delta_weight(role).float().cpu()
            merged = (weight + delta).to(weights[f"{name}.weight"].dtype)
            kept += float((merged.float() - weight).mul_(delta).sum(dtype=torch.float64))
            whole += float(delta.square().sum(dtype=torch.float64))
            weights[f"{name}.weight"] = merged
    return MergedWeights(weights, kept / whole if whole else 1.0)


def rounding_note(kept: float, dtype: torch.dtype) -> str | None:
    """One clause about what merging lost; None if it is next to nothing."""
    if kept >= WELL_KEPT:
        return None
    name = str(dtype).removeprefix("torch.")
    return f"only {kept:.0%} of the adapter survives rounding to {name}"

"""From token ids to last hidden states: with padding, as transformers does, or without."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel

from ppo_lm.fast.attention import NAME, PackedBatch
from ppo_lm.fast.llama_layers import read_llama_rows, why_not_llama
from ppo_lm.fast.packing import Packing
from ppo_lm.ops import position_ids

NO_MASK = torch.ones(1, 1, 1, 1, dtype=torch.bool)  # of four dimensions, so that transformers builds none of its own
TOLERANCE = {
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}  # relative; rounding alone stays well below, a wrong mask far above


def read_padded_rows(decoder: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """(B, T) int64, (B, T) bool → (B, T, H); what stands at padding means nothing."""
    output = decoder(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids(attention_mask), use_cache=False
    )
    return output.last_hidden_state


def read_packed_rows(decoder: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """As `read_padded_rows`, but all real tokens go through the network as one row, attention keeping them apart; 0 at
    padding."""
    packing = Packing.of(attention_mask)
    output = decoder(
        input_ids=packing.take(input_ids)[None],
        attention_mask=NO_MASK.to(input_ids.device),
        position_ids=packing.position_ids[None],
        use_cache=False,
        packed=PackedBatch(packing),
    )
    return packing.spread(output.last_hidden_state[0], input_ids.shape)


def can_read_packed_rows(network: PreTrainedModel) -> bool:
    """Give the network our attention and see whether packed rows read as padded ones do; if not, it gets its own
    attention back."""
    before = network.config._attn_implementation

    def read(*batch: torch.Tensor) -> torch.Tensor:
        network.set_attn_implementation(NAME)
        return read_packed_rows(network.get_decoder(), *batch)

    if _passes_try(network, read):
        return True
    network.set_attn_implementation(before)
    return False


def can_read_llama_rows(network: PreTrainedModel) -> bool:
    """Whether `read_llama_rows` is for networks of this kind, and reads as transformers does."""
    return why_not_llama(network) is None and _passes_try(
        network, partial(read_llama_rows, network.get_decoder(), None)
    )


def trial_ids(network: PreTrainedModel, count: int) -> torch.Tensor:
    """(count,) int64 from the middle of the vocabulary. The first ones are often special tokens that were hardly
    trained: rounding alone may turn what they give into something else."""
    words = network.get_input_embeddings().num_embeddings
    return (words // 2 + torch.arange(count, device=network.device)) % words


def reads_alike(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    """Whether two ways of computing the same differ, taken together, by no more than `tolerance` times their size."""
    return bool((found - expected).float().norm() <= tolerance * expected.float().norm())


@torch.no_grad()
def _passes_try(network: PreTrainedModel, read: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> bool:
    """Whether `read` gives what `read_padded_rows` does, on three short rows."""
    lengths = torch.tensor([5, 3, 9], device=network.device)
    mask = torch.arange(9, device=network.device) < lengths[:, None]
    ids = trial_ids(network, mask.numel()).view(mask.shape)
    try:
        expected = read_padded_rows(network.get_decoder(), ids, mask)[mask].float()
        found = read(ids, mask)[mask].float()
    except (
        TypeError,
        ValueError,
        KeyError,
        RuntimeError,
        AttributeError,
    ):  # the network takes no such argument, or lets no other attention in
        return False
    return reads_alike(found, expected, TOLERANCE.get(network.dtype, 0.0))

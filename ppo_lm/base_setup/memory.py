"""How many tokens a micro-batch has, and how many responses are sampled at once, if the configuration leaves it
open."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.models import BaseModel

FEWEST, MOST = 1024, 32_768  # tokens
SLOTS, GPU_SLOTS = 64, 512  # responses; `GraphEngine` takes fewer where memory is short
SHARE = 0.5  # of the free memory; the rest is for logits, gradients, and the sampler's weights and cache


def make_budget(base: BaseModel, tokens: int | None = None, slots: int | None = None) -> MemoryBudget:
    """A run's budget. `tokens`: in a micro-batch; None: `fitting_tokens` on CUDA, elsewhere 1,024. `slots`: responses
    sampled at once; None: 512 on CUDA, elsewhere 64."""
    on_gpu = base.device.type == "cuda"
    tokens = tokens or (fitting_tokens(base) if on_gpu else FEWEST)
    return MemoryBudget(tokens, slots or (GPU_SLOTS if on_gpu else SLOTS), in_step=base.is_sharded)


def describe_micro_batches(base: BaseModel, tokens: int | None, budget: MemoryBudget) -> str:
    """What to add to the description of `base`: the size that `make_budget` chose for a GPU, if it did."""
    return f"; micro-batches of {budget.tokens:,} tokens" if tokens is None and base.device.type == "cuda" else ""


def fitting_tokens(base: BaseModel) -> int:
    """How many tokens' activations fill `SHARE` of the device's free memory: the power of two below, from `FEWEST` to
    `MOST`."""
    return tokens_that_fit(free_bytes(base.device), bytes_per_token(base.network))


def tokens_that_fit(free: int, per_token: int) -> int:
    """The same for `free` bytes, with activations of `per_token` bytes a token."""
    return 1 << min(max(int(SHARE * free / per_token), FEWEST), MOST).bit_length() - 1


def free_bytes(device: torch.device) -> int:
    """Memory of a CUDA device that is free, or that torch's allocator holds without using it."""
    reserved, used = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + reserved - used


def bytes_per_token(network: PreTrainedModel) -> int:
    """An estimate of the activations that `fast.passes` keeps for the backward pass: in each block its two inputs,
    queries, keys and values, what attention gives, and the two halves of the MLP."""
    config = network.config.get_text_config()
    hidden = config.hidden_size
    intermediate = getattr(config, "intermediate_size", None) or 4 * hidden  # some families have no name for it
    return config.num_hidden_layers * network.dtype.itemsize * (8 * hidden + 3 * intermediate)

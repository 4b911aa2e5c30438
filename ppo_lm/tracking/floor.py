"""The least time a step's phases could take on this machine: operations over its measured rate of matrix products,
bytes over its measured rate of copying."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import nn

from ppo_lm.models import BaseModel
from ppo_lm.types import SAPairs


class Machine(NamedTuple):
    """What a device was measured to do in a second."""

    operations: (
        float  # floating-point, multiplications and additions counted apart, in products of large square matrices
    )
    bytes: float  # read and written, in copying a large tensor


class Passes(NamedTuple):
    """What a step asks of a network of one size."""

    scored: int  # passes over all tokens for log-probabilities or values
    scored_logprobs: int  # how many of those need logits
    rewards: int  # passes of reward models
    trained: int  # models trained, each with `epochs` passes forwards and backwards
    epochs: int
    all_weights: bool  # whether every weight needs a gradient, and not its input alone


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """The best of a few tries, in about half a second."""
    on_gpu = device.type == "cuda"
    side, size = (8192, 2**29) if on_gpu else (1024, 2**25)
    a, source = torch.randn(side, side, device=device).to(dtype), torch.zeros(size, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return Machine(
        2 * side**3 / _best_seconds(lambda: a @ a, device),
        2 * size / _best_seconds(lambda: target.copy_(source), device),
    )


def _best_seconds(work, device: torch.device, tries: int = 6) -> float:
    best = float("inf")
    for _ in range(tries):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best


class Floor:
    """The least seconds of each phase. Counted are the weights of the layers and of the output head, and the keys and
    values read while decoding; not counted are attention's own products, adapters, and everything that is no matrix
    product."""

    def __init__(self, base: BaseModel, machine: Machine, passes: Passes, slots: int):
        config = base.network.config.get_text_config()
        self.machine, self.passes, self.slots, self.itemsize = machine, passes, slots, base.dtype.itemsize
        layers = next(module for module in base.network.get_decoder().modules() if isinstance(module, nn.ModuleList))
        self.layer_weights = _count(layers)
        self.last_layer_alone = _count(layers[-1]) - sum(
            _count(module) for name, module in layers[-1].named_modules() if name.endswith(("k_proj", "v_proj"))
        )
        self.head_weights = base.network.get_output_embeddings().weight.numel()
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.cached_numbers = 2 * len(layers) * kv_heads * head_size  # a token's keys and values

    def seconds(self, sa_pairs: SAPairs) -> dict[str, float]:
        """By phase, for one step's pairs."""
        tokens, actions, passes = int(sa_pairs.attention_mask.sum()), len(sa_pairs), self.passes
        layers, head = self._pass(tokens, actions), 2 * self.head_weights * actions
        backward = (
            2 if passes.all_weights else 1
        )  # a gradient costs as much as the pass forwards, for the input and for the weights each
        training = passes.epochs * (1 + backward) * (passes.trained * layers + head)
        operations = {
            "scoring": passes.scored * layers + passes.scored_logprobs * head,
            "reward": passes.rewards * self._pass(tokens, sa_pairs.sequences),
            "training": training,
        }
        return {"sampling": self._sampling(tokens, actions, sa_pairs.sequences)} | {
            name: count / self.machine.operations for name, count in operations.items()
        }

    def _pass(self, tokens: int, wanted: int) -> int:
        """Operations of a pass forwards that is asked for `wanted` hidden states: the last layer needs no more than
        keys and values of the other tokens."""
        return 2 * (self.layer_weights * tokens - self.last_layer_alone * (tokens - wanted))

    def _sampling(self, tokens: int, actions: int, sequences: int) -> float:
        """Prompts at the rate of products; then full slots, bound by products or by reading weights once a step and
        every token's keys and values."""
        steps = -(-actions // min(self.slots, sequences))
        weights = self.layer_weights + self.head_weights
        numbers = steps * weights + actions * tokens / sequences * self.cached_numbers
        decode = max(2 * weights * actions / self.machine.operations, numbers * self.itemsize / self.machine.bytes)
        return self._pass(tokens - actions, sequences) / self.machine.operations + decode


def _count(module: nn.Module) -> int:
    """Numbers in its weight matrices, adapters left out."""
    return sum(p.numel() for name, p in module.named_parameters() if p.ndim == 2 and "lora_" not in name)

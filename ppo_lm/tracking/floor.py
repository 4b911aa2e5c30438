"""A lower bound on the time of each phase of a step on this machine: FLOPs over its measured matmul throughput, bytes
over its measured copy bandwidth."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from peft.tuners import lora
from torch import nn
from transformers import PreTrainedModel

from ppo_lm.advantage import Estimator
from ppo_lm.config import PPOConfig
from ppo_lm.ops.products import sum_products
from ppo_lm.types import SAPairs


class Machine(NamedTuple):
    """The measured throughput of a device, per second."""

    operations: float  # FLOPs in large matrix products, multiplications and additions counted separately
    bytes: float  # read plus written, when copying a large tensor


class Passes(NamedTuple):
    """The passes that a step makes through the network."""

    scored: int  # passes over all tokens for log-probabilities or values
    scored_logprobs: int  # how many of those need logits
    rewards: int  # passes of reward models
    trained: int  # models trained, each with `epochs` forward and backward passes
    epochs: int
    all_weights: bool  # whether gradients are needed for all weights, not just for their inputs

    @classmethod
    def of(cls, config: PPOConfig, estimator: Estimator, rewards: int) -> Passes:
        """A step's passes with these settings. `rewards`: the number of reward models, the monitor's included."""
        recomputed, critic = config.old_logprobs == "recomputed", estimator.needs_values
        return cls(
            scored=1 + (critic and not estimator.scores_in_first_update(config)) + recomputed,
            scored_logprobs=1 + recomputed,
            rewards=rewards,
            trained=1 + (critic and config.value_backbone == "separate"),
            epochs=config.ppo_epochs,
            all_weights=config.lora_r == 0,
        )


class Decoding(NamedTuple):
    """What sampling had to compute token by token, and what it could read in parallel (prefill)."""

    prompt_tokens: int  # read in parallel
    prompts: int  # each gives the logits of one token
    tokens: int  # fed one by one, each giving the logits of the next
    steps: int  # lower bound; each reads the weights
    cached_tokens: int  # whose keys and values were read, summed over the tokens fed


def count_decoding(sa_pairs: SAPairs, slots: int) -> Decoding:
    """The minimum work of any engine with `slots` slots to sample these pairs.

    A response's first token comes from reading its prompt. Every later token is computed by feeding its predecessor,
    which reads the keys and values of everything so far: prompt and response. The last token is never fed. A step feeds
    at most `slots` tokens, one per response, so the number of steps is at least tokens / slots, and at least what the
    longest response needs; preemptive scheduling reaches that bound (McNaughton 1959).
    """
    before = slice(-sa_pairs.action_ids.shape[1] - 1, -1)
    context = sa_pairs.attention_mask.cumsum(dim=1)[:, before]  # (B, A): tokens before each action
    fed = sa_pairs.action_mask.clone()  # (B, A): actions whose predecessor is also an action
    fed[:, 0] = False
    fed[:, 1:] &= sa_pairs.action_mask[:, :-1]
    numbers = (sa_pairs.attention_mask.sum(), sa_pairs.action_mask.sum(), fed.sum(), fed.sum(dim=1).max())
    attended, sampled, tokens, longest, cached = torch.stack([*numbers, context[fed].sum()]).tolist()
    return Decoding(
        prompt_tokens=attended - sa_pairs.sequences - tokens,
        prompts=sampled - tokens,
        tokens=tokens,
        steps=max(-(-tokens // slots), longest),
        cached_tokens=cached,
    )


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """Measure the device in about half a second, best of a few tries."""
    on_gpu = device.type == "cuda"
    side, size = (8192, 2**29) if on_gpu else (1024, 2**25)
    a = torch.randn(side, side, device=device).to(dtype)
    # Not zeros: freshly allocated ones may all map to a single page of memory, which stays in the CPU's caches.
    source = torch.arange(size // 8, device=device, dtype=torch.int64)
    target = torch.empty_like(source)
    products = (lambda: a @ a, lambda: sum_products([(a, a)]))  # torch's, and ours where they are faster
    return Machine(
        2 * side**3 / min(_best_seconds(product, device) for product in products),
        2 * size / _best_seconds(lambda: target.copy_(source), device),
    )


def _best_seconds(work: Callable[[], object], device: torch.device, tries: int = 6) -> float:
    best = float("inf")
    for _ in range(tries):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best


class Floor:
    """The minimum seconds of each phase. Includes the weights of the layers and the output head, and the keys and
    values read while decoding; excludes the matrix products inside attention, adapters, and everything other than
    matrix products."""

    def __init__(self, network: PreTrainedModel, machine: Machine, passes: Passes, slots: int):
        self.machine, self.passes, self.slots, self.itemsize = machine, passes, slots, network.dtype.itemsize
        layers = next(module for module in network.get_decoder().modules() if isinstance(module, nn.ModuleList))
        self.layer_weights = _count(layers)
        self.last_layer_alone = _count(layers[-1]) - sum(
            _count(module) for module in _key_value_projections(layers[-1])
        )
        head = network.get_output_embeddings()
        assert head is not None, "a causal language model has an output layer"
        self.head_weights = head.weight.numel()
        self.cached_numbers = sum(module.out_features for module in _key_value_projections(layers))  # of one token

    def seconds(self, sa_pairs: SAPairs) -> dict[str, float]:
        """The minimum seconds by phase, for one step's pairs."""
        tokens, actions, passes = int(sa_pairs.attention_mask.sum()), len(sa_pairs), self.passes
        layers, head = self._pass(tokens, actions), 2 * self.head_weights * actions
        # The gradients of the inputs and of the weights cost as much as the forward pass each.
        backward = 2 if passes.all_weights else 1
        operations = {
            "scoring": passes.scored * layers + passes.scored_logprobs * head,
            "reward": passes.rewards * self._pass(tokens, sa_pairs.sequences),
            "training": passes.epochs * (1 + backward) * (passes.trained * layers + head),
        }
        return {"sampling": self.sampling_seconds(count_decoding(sa_pairs, self.slots))} | {
            name: count / self.machine.operations for name, count in operations.items()
        }

    def _pass(self, tokens: int, wanted: int) -> int:
        """FLOPs of a forward pass that returns `wanted` hidden states: for the other tokens, the last layer only needs
        keys and values."""
        return 2 * (self.layer_weights * tokens - self.last_layer_alone * (tokens - wanted))

    def sampling_seconds(self, decoding: Decoding) -> float:
        """Reading prompts at matmul throughput, then decoding, bound by matmuls or by reading the weights once per step
        and each token's context."""
        weights = self.layer_weights + self.head_weights
        reading = self._pass(decoding.prompt_tokens, decoding.prompts) + 2 * self.head_weights * decoding.prompts
        numbers = decoding.steps * weights + decoding.cached_tokens * self.cached_numbers
        products, memory = 2 * weights * decoding.tokens / self.machine.operations, numbers * self.itemsize
        return reading / self.machine.operations + max(products, memory / self.machine.bytes)


def _key_value_projections(layers: nn.Module) -> list[Any]:
    """The linear layers that make keys and values, where these have layers of their own."""
    named = ((name, module) for name, module in layers.named_modules() if name.endswith(("k_proj", "v_proj")))
    return [module for _, module in named if isinstance(module, (nn.Linear, lora.Linear))]


def _count(module: nn.Module) -> int:
    """The number of weights in its matrices, without adapters."""
    return sum(p.numel() for name, p in module.named_parameters() if p.ndim == 2 and "lora_" not in name)

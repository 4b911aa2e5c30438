"""Tests ways to run a network against transformers' and peft's own forward pass."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners import lora
from torch import nn
from transformers import PreTrainedModel

from ppo_lm.errors import first_line
from ppo_lm.fast.blocks import find_block_lists
from ppo_lm.fast.lora_linear import adapted
from ppo_lm.fast.quantised_linear import QuantisedLinear
from ppo_lm.ops import is_out_of_memory

ROLE, RANK = "trial", 2  # of the adapter
LENGTHS = [6, 4, 9]  # tokens per row
STEPS = 3  # tokens at the end of each row that are decoded one by one
WINDOW = 4  # tokens; longer windows are cut to it, so that short rows reach beyond them
WINDOWS = ("sliding_window", "attention_chunk_size")  # transformers' names
NUMBERS = ("layer_idx", "layer_id", "layer_number", "idx")  # attributes that number a block
LEAST_BLOCKS = 2
TOLERANCE = 1e-3  # relative: in fp32, rounding is about a hundred times smaller, and mistakes are as much larger
COARSE_TOLERANCE, TIMES = 0.3, 4  # in bf16 and fp16; `TIMES` the error of transformers, if that is more
DEVICE_FAILED = re.compile(r"(CUDA|HIP|cuDNN|NCCL)( driver)? error|(CUBLAS|CUDNN)_STATUS|MPS backend")

Read = Callable[[PreTrainedModel, torch.Tensor, torch.Tensor], torch.Tensor]


class Sample(NamedTuple):
    """The first blocks of a network's decoder, in a dtype, and how far a correct way to run them may be from
    `Trial.expected`."""

    decoder: PreTrainedModel
    tolerance: float


class Trial:
    """Three short rows, and their last hidden states after the first blocks of a network: at least two blocks, and at
    least one of every kind that it has.

    It runs on copies, so that the network is not changed, in fp32, where mistakes and rounding cannot be confused. A
    network in bf16 or fp16 also runs in that dtype, to check that it can.
    """

    def __init__(self, network: PreTrainedModel, adapter: bool):
        """`adapter`: put a random LoRA adapter, called `ROLE`, onto every linear layer."""
        decoder, device = network.get_decoder(), network.device
        lengths = torch.tensor(LENGTHS, device=device)
        starts = torch.arange(len(LENGTHS), device=device)[:, None]  # so that there is padding on both sides
        places = torch.arange(max(LENGTHS) + len(LENGTHS), device=device)
        self.mask = (places >= starts) & (places < starts + lengths[:, None])
        self.ids = torch.arange(self.mask.numel(), device=device).view(self.mask.shape)
        exact = torch.promote_types(network.dtype, torch.float32)
        with torch.no_grad():
            embedded = decoder.get_input_embeddings()(trial_ids(network, self.ids.numel())[None])[0]
            first = _first_blocks(decoder, embedded, exact, adapter)
            self.expected = _read_rows_alone(first, self.ids, self.mask)
            self.samples = [Sample(first, TOLERANCE)]
            if network.dtype != exact:
                coarse = _first_blocks(decoder, embedded, network.dtype, adapter)
                error = _distance(_read_rows_alone(coarse, self.ids, self.mask), self.expected, self.mask)
                self.samples.append(Sample(coarse, max(COARSE_TOLERANCE, TIMES * error)))

    @torch.no_grad()
    def why_not(self, read: Read, where: torch.Tensor | None = None) -> str | None:
        """Why `read` must not be used; None if it agrees with transformers and peft.

        `read`: decoder, (B, T) int64, (B, T) bool → (B, T, H), compared at the real tokens, or at those of `where` (B,
        T) bool. Errors of the device and of memory are passed on.
        """
        for sample in self.samples:
            try:
                found = read(sample.decoder, self.ids, self.mask)
            except Exception as error:
                if not is_refusal(error):
                    raise
                return f"{type(error).__name__}: {first_line(error)}"
            distance = _distance(found, self.expected, self.mask if where is None else where)
            if not distance <= sample.tolerance:  # NaN fails too
                return f"its results differ from transformers' by {distance:.1e}, more than {sample.tolerance:.1e}"
        return None

    def why_not_decode(self, decode: Read) -> str | None:
        """Like `why_not`, for a `decode` that returns the states of `last_columns`, (B, STEPS + 1, H)."""
        columns = last_columns(self.mask)

        def read(decoder: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            found = decode(decoder, ids, mask)
            places = columns[:, :, None].expand(-1, -1, found.shape[2])
            return found.new_zeros(*ids.shape, found.shape[2]).scatter(1, places, found)

        return self.why_not(read, torch.zeros_like(self.mask).scatter(1, columns, True))

    def why_not_causal(self) -> str | None:
        """Why the network is not a causal one; None if tokens do not change what is found before them."""
        last = last_columns(self.mask)[:, -1:]
        beginnings = self.mask & (torch.arange(self.mask.shape[1], device=self.mask.device) < last - 1)
        return self.why_not(lambda decoder, ids, _: _read_rows_alone(decoder, ids, beginnings), beginnings)


def last_columns(mask: torch.Tensor) -> torch.Tensor:
    """(B, T) bool → (B, STEPS + 1) int64: the columns of the last real tokens of each row."""
    columns = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, columns, -1).amax(dim=1, keepdim=True) + columns[: STEPS + 1] - STEPS


def trial_ids(network: PreTrainedModel, count: int) -> torch.Tensor:
    """(count,) int64 from the middle of the vocabulary. The first ones are often special tokens that were hardly
    trained: rounding alone may change their outputs completely."""
    embedding: Any = network.get_input_embeddings()
    words = len(embedding.weight)
    return (words // 2 + torch.arange(count, device=network.device)) % words


def is_refusal(error: Exception) -> bool:
    """Whether an error means that a network does not support its input, not that memory ran out or the device
    failed."""
    if isinstance(error, (TypeError, ValueError, LookupError, AttributeError, NotImplementedError)):
        return True
    if not isinstance(error, RuntimeError) or isinstance(error, torch.AcceleratorError) or is_out_of_memory(error):
        return False
    return DEVICE_FAILED.search(str(error)) is None


@torch.no_grad()
def _read_rows_alone(decoder: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, T) int64, (B, T) bool → (B, T, H): what transformers gives for each row by itself, without padding."""
    rows = [decoder(input_ids=row[real][None], use_cache=False) for row, real in zip(ids, mask)]
    states = torch.cat([row.last_hidden_state[0] for row in rows])
    return states.new_zeros(*mask.shape, states.shape[1]).index_put((mask,), states)


def _distance(found: torch.Tensor, expected: torch.Tensor, where: torch.Tensor) -> float:
    """The relative distance per position, as the root mean square over all of them. (B, T, H) each, (B, T) bool."""
    found, expected = found[where].float(), expected[where].float()
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).square().mean().sqrt())


def _first_blocks(
    decoder: PreTrainedModel, embedded: torch.Tensor, dtype: torch.dtype, adapter: bool
) -> PreTrainedModel:
    """A copy of a decoder with only its first blocks, in `dtype`, whose token i is embedded as `embedded[i]`. Weights
    that already have that dtype are shared."""
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    for name, blocks in find_block_lists(decoder).items():
        part._modules[name] = blocks[: _enough(blocks)]
    words = decoder.get_input_embeddings().weight
    weights = {id(p): nn.Parameter(p.detach().to(dtype), False) for p in part.parameters() if p is not words}
    part = copy.deepcopy(part, {**weights, id(words): words})
    part.set_input_embeddings(nn.Embedding.from_pretrained(embedded.to(dtype)))
    for holder in (part.config, *part.modules()):
        for name in WINDOWS:
            if getattr(holder, name, None):
                setattr(holder, name, min(WINDOW, getattr(holder, name)))
    if adapter:
        _add_adapter(part, embedded.device)
    return part


def _enough(blocks: nn.ModuleList) -> int:
    """How many of the first blocks include every kind."""
    kinds = [_kind(block) for block in blocks]
    return max(LEAST_BLOCKS, *(kinds.index(kind) + 1 for kind in kinds))


def _kind(block: nn.Module) -> list[Any]:
    """What distinguishes one kind of block from another: its modules, and their plain attributes except the block's
    number."""
    plain = (bool, int, float, str)
    return [
        (name, type(module), {k: v for k, v in vars(module).items() if isinstance(v, plain) and k not in NUMBERS})
        for name, module in block.named_modules()
    ]


def _add_adapter(decoder: PreTrainedModel, device: torch.device) -> None:
    """Put a random adapter, half as strong as the layer itself, onto every linear layer, without affecting torch's
    random numbers."""
    targets = {
        name.rpartition(".")[2]
        for name, module in decoder.named_modules()
        if type(module) in (nn.Linear, QuantisedLinear)
    }
    with torch.random.fork_rng([device] if device.type == "cuda" else []), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=6, target_modules=sorted(targets)), decoder, ROLE)
    generator = torch.Generator().manual_seed(0)
    for layer in decoder.modules():
        if isinstance(layer, lora.Linear):
            weights = adapted(layer, ROLE)
            strength = float(weights.dense(torch.float32).float().std()) / (2 * weights.scale * RANK**0.5)
            for matrix, size in ((weights.a, 1.0), (weights.b, strength)):
                assert matrix is not None
                matrix.data = torch.randn(matrix.shape, generator=generator).mul_(size).to(device)

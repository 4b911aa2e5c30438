"""The peak memory of one device, by what takes it."""

from __future__ import annotations

import math

import torch

from ppo_lm import kernels
from ppo_lm.fast.attention import SHORT
from ppo_lm.fast.packing import few_sizes, round_up
from ppo_lm.ops.logprobs import CHUNK, GPU_CHUNK
from ppo_lm.planning.efficiency import Efficiency
from ppo_lm.planning.hardware import Hardware
from ppo_lm.planning.job import Job
from ppo_lm.planning.layout import Layout, Share, share_of
from ppo_lm.rollout.graph_engine import SHARE as KV_SHARE

FP32 = 4  # bytes
MOMENTS = 2 * FP32  # of Adam, for each weight
LOGIT_BYTES = 12  # of each logit in memory: in the network's dtype, in fp32, and its exponential
Parts = dict[str, int]


def memory_by_part(job: Job, hardware: Hardware, layout: Layout, efficiency: Efficiency) -> Parts:
    """Bytes that a trainer holds at its peak, by part.

    A CPU frees the sampler's weights and cache before it trains, so the peak is that of the phase that takes more; a
    GPU keeps them where they are (`rollout.GraphEngine`), for its CUDA graphs.
    """
    share, on_gpu = share_of(job, hardware, layout), hardware.device_type == "cuda"
    kept = {
        "libraries": hardware.imported + efficiency.framework,
        "frozen base": _base(job, layout),
        "trained weights": _trained(job),
        "gradients and optimiser": _optimiser(job),
    }
    training = {
        "activations": _activations(job, share, on_gpu),
        "logits and temporaries": _temporaries(job, share, on_gpu),
    }
    if layout.trainers > 1:  # once the passes are done
        training = _larger(training, {"gradients to send": job.trained_weights * FP32})
    sampler = {} if layout.samplers else _sampler(job, hardware, share, sum(kept.values()))
    if on_gpu:
        return _present(kept | sampler | training)
    head = 0 if layout.samplers or job.trains_all_weights else _head_copy(job)  # stays, as nothing trains it
    training["sampler's output layer"] = head
    return _present(kept | _larger(sampler, training))


def _larger(one: Parts, other: Parts) -> Parts:
    return max(one, other, key=lambda parts: sum(parts.values()))


def _present(parts: Parts) -> Parts:
    return {name: size for name, size in parts.items() if size}


def _base(job: Job, layout: Layout) -> int:
    """With FSDP2, two layers are whole at a time: the one in use, and the next."""
    sizes, itemsize = job.sizes, job.network.dtype.itemsize
    if not layout.sharded:
        return sizes.weights * itemsize
    whole = max(2 * sizes.layer_weights // sizes.layers, sizes.head_weights)
    return (sizes.weights // layout.trainers + whole) * itemsize


def _trained(job: Job) -> int:
    """Adapters are fp32; with lora_r 0, each model is a copy of the network in its dtype. Reward models have adapters
    of their own."""
    if job.trains_all_weights:
        return job.trained_weights * job.network.dtype.itemsize
    return (job.trained_weights + job.reward_models * job.adapter) * FP32


def _optimiser(job: Job) -> int:
    """Gradients, moments, the fp32 copy of weights that are not fp32, and, where a step makes several updates, what is
    needed to undo them (`optimisation.all_or_nothing`)."""
    coarse = job.trains_all_weights and job.network.dtype.itemsize < FP32
    undo = FP32 + MOMENTS if job.updates > 1 else 0
    return job.trained_weights * (FP32 + MOMENTS + FP32 * coarse + undo)


def _tokens_at_once(job: Job, share: Share, on_gpu: bool) -> int:
    rows = share.rows_at_once(job, share.trained_rows)
    return rows * job.row_tokens if on_gpu else few_sizes(rows * job.row_tokens)


def _activations(job: Job, share: Share, on_gpu: bool) -> int:
    """What the backward pass needs of a micro-batch. Short rows on a CPU without our kernels keep their attention
    weights."""
    sizes, itemsize = job.sizes, job.network.dtype.itemsize
    tokens, width = _tokens_at_once(job, share, on_gpu), job.row_tokens
    own = on_gpu or kernels.why_not(torch.device("cpu"), job.network.dtype) is None
    weights = 0 if own or width > SHORT else sizes.layers * sizes.heads * tokens * width
    kept = tokens * sizes.kept_by_layers + weights
    if job.config.gradient_checkpointing:
        kept = tokens * sizes.layers * sizes.hidden + kept // sizes.layers
    return kept * itemsize


def _temporaries(job: Job, share: Share, on_gpu: bool) -> int:
    """The logits of one chunk, and what the backward pass of one layer makes: gradients of its inputs and of the two
    halves of the MLP and their product; with lora_r 0, also a gradient of the output layer."""
    sizes, itemsize = job.sizes, job.network.dtype.itemsize
    tokens = _tokens_at_once(job, share, on_gpu)
    actions = tokens * job.response_tokens // job.row_tokens
    logits = min(GPU_CHUNK if on_gpu else CHUNK, actions) * sizes.vocabulary * LOGIT_BYTES
    layer = tokens * (4 * sizes.hidden + 4 * sizes.intermediate) * itemsize
    return layer + logits + job.trains_all_weights * sizes.head_weights * itemsize


def _sampler(job: Job, hardware: Hardware, share: Share, held: int) -> Parts:
    """Its own copy of the layers' weights, and keys and values, which on a GPU fill at most `KV_SHARE` of what is free.
    On a CPU keys and values are there twice while their memory grows, and the output layer has a copy too."""
    sizes, itemsize = job.sizes, job.network.dtype.itemsize
    copy = sizes.layer_weights * itemsize
    if itemsize < FP32:  # adapters stay beside the weights, see `fast.FusedLinear`
        copy += sum(job.config.lora_r * (outputs + inputs) for outputs, inputs in job.adapted_layers) * itemsize
    per_row = round_up(job.row_tokens, 32) * sizes.cached * itemsize
    if hardware.device_type == "cuda":
        slots = min(share.slots, max(int(KV_SHARE * (hardware.memory - held - copy) / per_row), 1))
        return {"sampler's weights": copy, "KV cache": slots * per_row}
    logits = share.slots * sizes.vocabulary * LOGIT_BYTES
    return {
        "sampler's weights": copy + _head_copy(job),
        "KV cache": 2 * share.slots * per_row,
        "logits and temporaries": logits,
    }


def _head_copy(job: Job) -> int:
    return job.sizes.head_weights * job.network.dtype.itemsize


def in_gib(size: float) -> float:
    """Bytes → GiB."""
    return size / math.pow(2, 30)

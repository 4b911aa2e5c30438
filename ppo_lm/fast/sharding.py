"""A network whose weights are sharded over the processes by torch's FSDP2 ("PyTorch FSDP", 2304.11277): each process
holds a slice of every weight, and the weights of one block at a time are gathered while it is passed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ppo_lm.distributed import processes
from ppo_lm.distributed.slices import is_sharded, whole
from ppo_lm.fast.blocks import FAMILIES, describe, find_block_lists
from ppo_lm.fast.passes import pass_block, read_rows


def shard_network(network: PreTrainedModel, device: torch.device) -> None:
    """Keep only this process's slice of the weights, on `device`. From now on, all processes have to pass through the
    decoder equally often, forward and back; the output layer is read through `gathered`. Gradients are added up over
    the processes, in fp32, and each keeps its slice. Raises ValueError for a decoder without one list of blocks."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    decoder: Any = network.get_decoder()
    embedding: Any = network.get_input_embeddings()
    head: Any = network.get_output_embeddings()
    lists = list(find_block_lists(decoder).values())
    if len(lists) != 1:
        raise ValueError("its blocks are not in one list")
    mesh, is_tied = init_device_mesh(device.type, (processes().size,)), head.weight is embedding.weight
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    modules: list[Any] = [embedding, *lists[0], decoder]  # under one root, one is gathered while another is passed
    for module in modules:
        fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
        module.set_gradient_divide_factor(1.0)  # sums, not means
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    network.to(device)  # pyright: ignore[reportArgumentType]  (transformers' wrapper hides self from it)
    if is_tied:
        head.weight = embedding.weight
    else:
        _shard_layer(head, mesh)


def _shard_layer(layer: nn.Module, mesh: Any) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    for name, weight in list(layer.named_parameters(recurse=False)):
        own = distribute_tensor(weight.detach(), mesh, [Shard(0)], src_data_rank=None)
        setattr(layer, name, nn.Parameter(own, requires_grad=weight.requires_grad))


def gathered(layer: nn.Module) -> nn.Module:
    """The same layer with whole weights, which are freed with it; see `slices.whole`."""
    twin: Any = copy.copy(layer)
    twin._parameters = {name: weight if weight is None else whole(weight) for name, weight in layer._parameters.items()}
    return twin


@contextmanager
def in_whole_shapes(network: nn.Module) -> Iterator[None]:
    """Inside the block, sharded weights are represented by tensors of their whole shapes, without content: peft 0.18
    takes the shape of a slice for that of the layer that it adapts."""
    sharded = [
        (module, name, weight)
        for module in network.modules()
        for name, weight in module.named_parameters(recurse=False)
        if is_sharded(weight)
    ]
    for module, name, weight in sharded:
        empty = torch.empty((), dtype=weight.dtype, device=weight.device).expand(weight.shape)
        module._parameters[name] = nn.Parameter(empty, requires_grad=False)
    try:
        yield
    finally:
        for module, name, weight in sharded:
            module._parameters[name] = weight


def shard_own_passes(decoder: Any) -> None:
    """Give a decoder that `shard_network` has sharded, and its blocks, a method `own_pass`: our own passes, which
    gather weights as `forward` does. The decoder's has the arguments of `read_rows`, without the trunk."""
    from torch.distributed.fsdp import register_fsdp_forward_method

    family = FAMILIES.find(decoder.config.model_type)

    def pass_gathered(block: Any, *arguments: Any) -> torch.Tensor:
        return pass_block(family(block), *arguments)

    def pass_sharded(block: Any, *arguments: Any) -> torch.Tensor:
        return block.own_pass(*arguments)

    def read(decoder: Any, *arguments: Any) -> torch.Tensor:
        trunk = replace(describe(decoder), blocks=list(decoder.layers))
        return read_rows(trunk, *arguments, pass_block=pass_sharded).clone()  # FSDP2 warns of outputs that are views

    for module, method in [*((block, pass_gathered) for block in decoder.layers), (decoder, read)]:
        module.own_pass = MethodType(method, module)
        register_fsdp_forward_method(module, "own_pass")

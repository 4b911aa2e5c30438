"""A network whose blocks are sharded over the processes by torch's FSDP2 ("PyTorch FSDP", 2304.11277): each process
holds a slice of every weight in them, and the weights of one block at a time are gathered while it is passed.

The embedding, the last norm and the output layer stay whole in every process.
"""

from __future__ import annotations

from dataclasses import replace
from types import MethodType
from typing import Any

import torch
from transformers import PreTrainedModel

from ppo_lm.distributed import processes
from ppo_lm.fast.blocks import FAMILIES, describe, find_block_lists
from ppo_lm.fast.passes import pass_block, read_rows


def shard_blocks(decoder: PreTrainedModel, device: torch.device) -> None:
    """Keep only this process's slice of the blocks' weights, on `device`. From now on, all processes have to pass
    through the decoder equally often, forward and back. Raises ValueError for a decoder without one list of blocks."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    lists = list(find_block_lists(decoder).values())
    if len(lists) != 1:
        raise ValueError("its blocks are not in one list")
    mesh = init_device_mesh(device.type, (processes().size,))
    outside = set(decoder.parameters()) - set(lists[0].parameters())
    for block in lists[0]:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # Blocks under one root share their streams, so that one can be gathered while another is passed.
    fully_shard(decoder, mesh=mesh, ignored_params=outside)


def shard_own_passes(decoder: Any) -> None:
    """Give a decoder that `shard_blocks` has sharded, and its blocks, a method `own_pass`: our own passes, which gather
    weights as `forward` does. The decoder's has the arguments of `read_rows`, without the trunk."""
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


def whole(weight: torch.Tensor) -> torch.Tensor:
    """A weight as it was before it was sharded. All processes have to ask for it."""
    full_tensor = getattr(weight, "full_tensor", None)
    return weight if full_tensor is None else full_tensor()


def own_slice(weight: torch.Tensor) -> torch.Tensor:
    """The part of a weight that this process holds; all of it unless it is sharded."""
    to_local = getattr(weight, "to_local", None)
    return weight if to_local is None else to_local()

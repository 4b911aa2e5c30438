"""torch's default group of all processes."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from ppo_lm.distributed.place import Place


def meet(place: Place, to_meet: timedelta, to_wait: timedelta) -> None:
    """Make the group: gloo between CPUs and, where there are GPUs, NCCL between those. `to_meet`: how long all may take
    to come; `to_wait`: how long they may wait for each other later."""
    if dist.is_initialized():  # by the user's own script
        return
    store, rank, size = next(iter(rendezvous("env://", timeout=to_meet)))
    store.set(f"ppo_lm/{rank}", "here")
    store.wait([f"ppo_lm/{other}" for other in range(size)], to_meet)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=to_wait)

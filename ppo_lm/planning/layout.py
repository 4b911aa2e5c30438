"""How a run is laid out over devices."""

from __future__ import annotations

import math
from typing import NamedTuple

from ppo_lm.base_setup.memory import FEWEST, GPU_SLOTS, SLOTS, bytes_per_token, tokens_that_fit
from ppo_lm.planning.hardware import Hardware
from ppo_lm.planning.job import Job


class Layout(NamedTuple):
    """`trainers` processes train, with the frozen base in each or, `sharded`, a part of it in each. They also sample,
    unless there are `samplers`, devices that serve vLLM."""

    trainers: int
    sharded: bool = False
    samplers: int = 0


class Share(NamedTuple):
    """What one trainer does in a step."""

    rows: int  # responses sampled and scored
    mini_batch_rows: int  # of a mini-batch, responses trained on
    micro_batch_tokens: int  # at most
    slots: int  # responses sampled at once

    def rows_at_once(self, job: Job) -> int:
        """Responses in a full micro-batch."""
        return min(max(self.micro_batch_tokens // job.row_tokens, 1), self.rows)

    def micro_batches(self, job: Job, rows: int) -> int:
        """How many it takes to pass over `rows` responses."""
        return math.ceil(rows / self.rows_at_once(job))


def share_of(job: Job, hardware: Hardware, layout: Layout) -> Share:
    """The largest share of the trainers, with the sizes that `make_budget` chooses where the configuration leaves them
    open."""
    config, on_gpu = job.config, hardware.device_type == "cuda"
    rows = math.ceil(config.batch_size / layout.trainers)
    mini_batch_rows = math.ceil(math.ceil(config.batch_size / config.mini_batches) / layout.trainers)
    chosen = FEWEST
    if on_gpu:
        base = job.sizes.weights * job.network.dtype.itemsize // (layout.trainers if layout.sharded else 1)
        chosen = tokens_that_fit(hardware.memory - base, bytes_per_token(job.network))
    slots = config.rollout_slots or (GPU_SLOTS if on_gpu else SLOTS)
    return Share(rows, mini_batch_rows, config.micro_batch_tokens or chosen, min(rows, slots))

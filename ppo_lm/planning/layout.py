"""How a run is laid out over devices."""

from __future__ import annotations

import math
from typing import NamedTuple

from ppo_lm.base_setup.memory import FEWEST, GPU_SLOTS, SLOTS, bytes_per_token, tokens_that_fit
from ppo_lm.planning.hardware import Hardware
from ppo_lm.planning.job import Job
from ppo_lm.tracking import Passes


class Layout(NamedTuple):
    """`trainers` processes train, with the frozen base in each or, `sharded`, a part of it in each. They also sample,
    unless there are `samplers`, devices that serve vLLM."""

    trainers: int
    sharded: bool = False
    samplers: int = 0


class Share(NamedTuple):
    """What one trainer, and one sampler, does in a step."""

    rows: int  # responses that a trainer scores
    trained_rows: int  # responses of a mini-batch that it passes through a model
    sampled_rows: int  # responses that a trainer samples or, if there are servers, one of them
    slots: int  # responses sampled at once, at most; an evaluation may have more of them than a step
    micro_batch_tokens: int  # at most
    passes: Passes  # of a trainer

    def rows_at_once(self, job: Job, rows: int) -> int:
        """Responses in a full micro-batch, out of `rows`."""
        return min(max(self.micro_batch_tokens // job.row_tokens, 1), rows)

    def micro_batches(self, job: Job, rows: int) -> int:
        """How many it takes to pass over `rows` responses."""
        return math.ceil(rows / self.rows_at_once(job, rows))


def share_of(job: Job, hardware: Hardware, layout: Layout) -> Share:
    """The largest share of the trainers, with the sizes that `make_budget` chooses where the configuration leaves them
    open."""
    config, on_gpu = job.config, hardware.device_type == "cuda"
    chosen = FEWEST
    if on_gpu:
        base = job.sizes.weights * job.network.dtype.itemsize // (layout.trainers if layout.sharded else 1)
        chosen = tokens_that_fit(hardware.memory - base, bytes_per_token(job.network))
    sampling = layout.samplers or layout.trainers
    sampled_rows = math.ceil(config.batch_size / sampling)
    most = max(sampled_rows, math.ceil(config.eval_prompts / sampling))
    return Share(
        rows=math.ceil(config.batch_size / layout.trainers),
        trained_rows=_trained_rows(job, layout),
        sampled_rows=sampled_rows,
        slots=min(most, config.rollout_slots or (GPU_SLOTS if on_gpu else SLOTS)),
        micro_batch_tokens=config.micro_batch_tokens or chosen,
        passes=_passes(job, layout),
    )


def _trained_rows(job: Job, layout: Layout) -> int:
    """One trainer passes a mini-batch through one model after the other, and so do those of a sharded base, with fewer
    rows each; of others, about as many pass each model (`distributed.share_jobs`)."""
    mini_batch = math.ceil(job.config.batch_size / job.config.mini_batches)
    models = 1 if layout.sharded else job.passes.trained
    return min(mini_batch, math.ceil(models * mini_batch / layout.trainers))


def _passes(job: Job, layout: Layout) -> Passes:
    """Servers do not report entropies, which takes a pass of the policy that recomputed log-probabilities come from
    too."""
    passes = job.passes
    if layout.trainers > 1 and not layout.sharded:
        passes = passes._replace(trained=1)
    if layout.samplers and job.config.old_logprobs == "sampled":
        passes = passes._replace(scored=passes.scored + 1, scored_logprobs=passes.scored_logprobs + 1)
    return passes

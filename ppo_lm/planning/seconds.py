"""The seconds of each phase of a step on one device, by what they are spent on.

The matrix products of the layers and of the output layer, and what decoding reads, are those of `tracking.Floor`, at
the rates that our code reaches. Added to them: the products of attention and adapters, the traffic of activations and
logits, what each layer costs however small it is, the optimiser, and what processes send each other.
"""

from __future__ import annotations

import dataclasses

from ppo_lm.base_setup.memory import bytes_per_token
from ppo_lm.fast.packing import few_sizes
from ppo_lm.planning.efficiency import Efficiency
from ppo_lm.planning.hardware import Hardware
from ppo_lm.planning.job import Job
from ppo_lm.planning.layout import Layout, share_of
from ppo_lm.planning.spent import Spent
from ppo_lm.tracking import Floor
from ppo_lm.tracking.floor import Decoding, Machine, count_decoding

FP32 = 4  # bytes
INFINITE = float("inf")
UPDATE = 10 * FP32  # bytes that an update of AdamW reads and writes for each weight: it, its gradient, two moments
UNDO = 6 * FP32  # and a copy of it and of its moments, to undo the step


def seconds_by_phase(job: Job, hardware: Hardware, layout: Layout, efficiency: Efficiency) -> dict[str, Spent]:
    """Seconds by phase: "sampling", "scoring", "reward" (reward models; a function of your own takes its own time) and
    "training"."""
    return _Cost(job, hardware, layout, efficiency).phases()


class _Cost:
    def __init__(self, job: Job, hardware: Hardware, layout: Layout, efficiency: Efficiency):
        self.job, self.hardware, self.layout, self.efficiency = job, hardware, layout, efficiency
        self.sizes, self.share = job.sizes, share_of(job, hardware, layout)
        self.bytes = hardware.machine.bytes
        self.operations = hardware.machine.operations * efficiency.products
        self.floor = self.floor_at(self.operations, self.bytes)

    def floor_at(self, operations: float, bytes_per_second: float) -> Floor:
        return Floor(self.job.network, Machine(operations, bytes_per_second), self.share.passes, self.share.slots)

    def phases(self) -> dict[str, Spent]:
        passes, rows, job = self.share.passes, self.share.rows, self.job
        least = {phase: self.padding(rows) * s for phase, s in self.floor.seconds(job.pairs(rows)).items()}
        one_pass = self.forward(rows)
        logits = self.logits(passes.scored_logprobs * rows * job.response_tokens)
        return {
            "sampling": self.sampling(),
            "scoring": Spent(least["scoring"]) + one_pass.times(passes.scored) + logits,
            "reward": Spent(least["reward"]) + one_pass.times(passes.rewards),
            "training": self.training(),
        }

    def training(self) -> Spent:
        """Each model: a pass forward, and one back that costs two of them besides the products in `Floor`. Activation
        checkpointing adds one forward. Of several trainers, those that pass the policy take longest."""
        job, passes, again = self.job, self.share.passes, self.job.config.gradient_checkpointing
        rows, updates = self.share.trained_rows, job.updates
        least = self.padding(rows) * self.floor.seconds(job.pairs(rows * job.config.mini_batches))["training"]
        forward = least / (3 if passes.all_weights else 2)
        return (
            Spent(least + again * forward)
            + self.forward(rows).times((3 + again) * updates * passes.trained)
            + self.logits(updates * rows * job.response_tokens)
            + self.updates()
        )

    def updates(self) -> Spent:
        """Of all trained weights."""
        job = self.job
        moved = job.trained_weights * (job.updates * UPDATE + (job.updates > 1) * UNDO)
        return Spent(memory=moved / self.bytes, sent=self.all_reduce(job.updates * job.trained_weights * FP32))

    def forward(self, rows: int, tokens: int | None = None) -> Spent:
        """What a pass over `rows` sequences costs besides the products in `Floor`. `tokens`: of each; None: of prompt
        and response."""
        tokens = self.job.row_tokens if tokens is None else tokens
        count, sizes, efficiency = self.padding(rows) * rows * tokens, self.sizes, self.efficiency
        micro_batches = self.share.micro_batches(self.job, rows)
        on_gpu = self.hardware.device_type == "cuda"  # flash attention skips what is masked, and writes no weights
        attention = (2 if on_gpu else 4) * sizes.layers * sizes.queries * tokens * count
        weights = 0 if on_gpu else sizes.layers * sizes.heads * tokens * self.job.network.dtype.itemsize
        moved = efficiency.traffic * (bytes_per_token(self.job.network) + weights) * count
        return Spent(
            products=(attention + self.adapter(count, micro_batches)) / self.operations,
            memory=moved / self.bytes,
            calls=efficiency.layer_seconds * sizes.layers * micro_batches,
            sent=self.all_gather(micro_batches),
        )

    def padding(self, rows: int) -> float:
        """How many tokens a CPU computes for each of a micro-batch of a pass over `rows` sequences
        (`fast.packing.few_sizes`)."""
        tokens = self.share.rows_at_once(self.job, rows) * self.job.row_tokens
        return 1.0 if self.hardware.device_type == "cuda" else few_sizes(tokens) / tokens

    def adapter(self, tokens: float, micro_batches: int) -> float:
        """FLOPs of an adapter: two thin products for each token or, in fp32, W + B·A once a micro-batch where that is
        less (`fast.adapted_linear`)."""
        thin = 2.0 * self.job.adapter * tokens
        if self.job.network.dtype.itemsize < FP32:
            return thin
        whole = sum(2 * self.job.config.lora_r * outputs * inputs for outputs, inputs in self.job.adapted_layers)
        return min(thin, float(whole * micro_batches))

    def logits(self, count: int) -> Spent:
        """What is done with `count` rows of logits besides computing them."""
        return Spent(memory=self.efficiency.logits * FP32 * self.sizes.vocabulary * count / self.bytes)

    def sampling(self) -> Spent:
        """On the trainers, or on the devices that serve vLLM, whose speed is taken to be that of our own engine."""
        job, efficiency, sizes, rows = self.job, self.efficiency, self.sizes, self.share.sampled_rows
        decoding = count_decoding(job.pairs(rows), self.share.slots)
        prompts = decoding._replace(tokens=0, steps=0, cached_tokens=0)
        copied = 0 if self.layout.samplers else 2 * sizes.layer_weights * job.network.dtype.itemsize
        reading = self.forward(rows, job.prompt_tokens)
        return (
            Spent(self.floor.sampling_seconds(prompts))
            + dataclasses.replace(reading, sent=0.0)
            + self.decoding(decoding._replace(prompt_tokens=0, prompts=0))
            + self.logits(decoding.tokens + decoding.prompts)
            + Spent(memory=copied / (self.bytes * efficiency.decode_bytes))
        )

    def decoding(self, decoding: Decoding) -> Spent:
        """Bound by the products or by what is read, whichever takes longer."""
        rates, efficiency = self.hardware.machine, self.efficiency
        products = self.floor_at(rates.operations * efficiency.decode_products, INFINITE).sampling_seconds(decoding)
        memory = self.floor_at(INFINITE, rates.bytes * efficiency.decode_bytes).sampling_seconds(decoding)
        calls = efficiency.decode_layer_seconds * self.sizes.layers * decoding.steps
        return Spent(products, calls=calls) if products > memory else Spent(memory=memory, calls=calls)

    def all_reduce(self, size: float) -> float:
        """Seconds to add up `size` bytes of gradients over all trainers in a ring: each sends them twice, but for its
        own part. 0 where the link's rate is unknown."""
        trainers, link = self.layout.trainers, self._slowest_link()
        return 2 * size * (trainers - 1) / trainers / link if link else 0.0

    def all_gather(self, micro_batches: int) -> float:
        """Seconds that a sharded base adds to a pass: every layer's weights are sent to all trainers in each
        micro-batch."""
        trainers, link = self.layout.trainers, self._slowest_link()
        if not self.layout.sharded or not link:
            return 0.0
        size = self.sizes.weights * self.job.network.dtype.itemsize
        return micro_batches * size * (trainers - 1) / trainers / link

    def _slowest_link(self) -> float | None:
        return self.hardware.link if self.hardware.hosts == 1 else self.hardware.host_link

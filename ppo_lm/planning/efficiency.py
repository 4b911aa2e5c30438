"""What share of a machine's rates our passes reach: the few numbers of the cost model that are measured, not derived.

Those of the CPU are fitted to the eight configurations of FIT in benchmarks/plan_cases.py, by
`benchmarks/plan_check.py --fit`, which prints the lines between the marks. The six of CHECK are not among them.
"""

from __future__ import annotations

from typing import NamedTuple

MIB = 2**20


class Efficiency(NamedTuple):
    """How our code compares with a machine's matrix products and copies (`tracking.measure_machine`), for one kind of
    device and dtype."""

    products: float  # share of the rate of products that a pass over many tokens reaches
    traffic: float  # times that a forward pass reads or writes each activation, at the rate of copies
    layer_seconds: float  # seconds that a forward pass takes for a layer, however small
    logits: float  # times that each logit is read or written, in fp32
    decode_products: float  # `products` for decoding, which has few rows
    decode_bytes: float  # share of the rate of copies at which decoding reads weights, keys and values
    decode_layer_seconds: float  # `layer_seconds` of a decoding step
    framework: int  # bytes that the libraries take while they work, beyond what importing them takes


# fitted by benchmarks/plan_check.py --fit
CPU_FP32 = Efficiency(0.885, 0.55, 0.00135, 4.03, 0.646, 1, 0.000256, 101 * MIB)
CPU_BF16 = Efficiency(1, 1.11, 0.00122, 5.01, 0.587, 0.756, 0.000309, 84 * MIB)
# end of what was fitted

# Of one configuration on one H100, against its published rates: one number for scoring and training, one for sampling.
# benchmarks/plan_check.py --gpu benchmarks/results/2026-11-28-h100/gpu_step.jsonl
GPU = Efficiency(0.352, 0.0, 0.0, 0.0, 0.352, 0.499, 0.0, 0)


def find_efficiency(device_type: str, itemsize: int) -> Efficiency:
    """The efficiency on a "cpu" or "cuda" device, with weights of `itemsize` bytes."""
    if device_type == "cuda":
        return GPU
    return CPU_BF16 if itemsize < 4 else CPU_FP32

"""C++ kernels for CPUs, in fp32 and bf16. They compute in fp32, and round once to what they write."""

from ppo_lm.kernels.cpu.attention import attend, attend_cached, attend_gradients
from ppo_lm.kernels.cpu.build import NoKernels, load_library
from ppo_lm.kernels.cpu.decode import DecoderParts, LayerParts, PackedLayers, decode
from ppo_lm.kernels.cpu.elementwise import (
    add_and_normalise,
    normalise,
    normalise_gradients,
    rotate,
    swiglu,
    swiglu_gradients,
)
from ppo_lm.kernels.cpu.products import Packed, products_are_ahead, sum_products
from ppo_lm.kernels.cpu.vocabulary import exponentials, sums_of_blocks

__all__ = [
    "DecoderParts",
    "LayerParts",
    "NoKernels",
    "Packed",
    "PackedLayers",
    "add_and_normalise",
    "attend",
    "attend_cached",
    "attend_gradients",
    "decode",
    "exponentials",
    "load_library",
    "normalise",
    "normalise_gradients",
    "products_are_ahead",
    "rotate",
    "sum_products",
    "sums_of_blocks",
    "swiglu",
    "swiglu_gradients",
]

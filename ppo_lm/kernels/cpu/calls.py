"""Calls of the compiled kernels."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch

from ppo_lm.kernels.cpu.build import load_library

ADDRESS, COUNT, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class Heads(ctypes.Structure):
    """(tokens, heads, size), without gaps within a head."""

    _fields_ = [("at", ADDRESS), ("token_stride", COUNT), ("head_stride", COUNT)]

    @classmethod
    def of(cls, x: torch.Tensor) -> Heads:
        return cls(x.data_ptr(), *x.stride()[:2])


class Place(ctypes.Structure):
    """Of a matrix whose rows or columns have no gaps."""

    _fields_ = [("at", ADDRESS), ("row", COUNT), ("column", COUNT)]

    @classmethod
    def of(cls, x: torch.Tensor) -> Place:
        return cls(x.data_ptr(), *x.stride())


class Product(ctypes.Structure):
    """Of two matrices, the places of which are flat: nested structures take longer to make than many a product."""

    _fields_ = [
        *(("a", ADDRESS), ("a_row", COUNT), ("a_column", COUNT)),
        *(("b", ADDRESS), ("b_row", COUNT), ("b_column", COUNT)),
        *((name, COUNT) for name in ("inner", "is_packed")),
    ]


class Shape(ctypes.Structure):
    """Of an attention: tokens, rows, query heads, key and value heads, the size of a head, the window, the scale."""

    _fields_ = [(name, COUNT) for name in ("tokens", "rows", "heads", "kv_heads", "size", "window")] + [("scale", REAL)]


class Norm(ctypes.Structure):
    """A root-mean-square normalisation; none without a weight."""

    _fields_ = [("weight", ADDRESS), ("eps", REAL)]


class Linear(ctypes.Structure):
    """A linear layer with packed weights, the adapter's beside them."""

    _fields_ = [(name, ADDRESS) for name in ("a", "weight", "bias")] + [
        (name, COUNT) for name in ("inputs", "rank", "outputs")
    ]


class Layer(ctypes.Structure):
    """One block of a decoder."""

    _fields_ = [
        *((name, Norm) for name in ("attention_norm", "mlp_norm", "q_norm", "k_norm")),
        *((name, Linear) for name in ("qkv", "out", "gate_up", "down")),
        *((name, COUNT) for name in ("heads", "kv_heads", "size", "window")),
        ("scale", REAL),
    ]


ARGUMENTS = {
    "swiglu": [ADDRESS] * 3 + [COUNT] * 5,
    "swiglu_gradients": [ADDRESS] * 5 + [COUNT] * 4,
    "normalise": [ADDRESS] * 6 + [REAL] + [COUNT] * 5,
    "normalise_gradients": [ADDRESS] * 6 + [COUNT] * 5,
    "rotate": [ADDRESS] * 6 + [REAL] * 2 + [COUNT] * 6,
    "exponentials": [ADDRESS] * 5 + [REAL] + [COUNT] * 4,
    "pack": [Place] + [COUNT] * 2 + [ADDRESS],
    "sum_products": [ctypes.POINTER(Product), COUNT, ADDRESS, COUNT, ADDRESS] + [COUNT] * 3,
    "attend": [Heads] * 3 + [ADDRESS] * 3 + [Shape],
    "attend_gradients": [Heads] * 4 + [ADDRESS] * 5 + [Shape],
    "attend_cached": [Heads] * 3 + [ADDRESS] * 3 + [COUNT, ADDRESS, COUNT, Shape],
    "decode": [ctypes.POINTER(Layer), COUNT, Norm] + [ADDRESS] * 6 + [COUNT] * 2 + [ADDRESS] + [COUNT] * 2,
}


@functools.cache
def kernel(name: str, dtype: torch.dtype) -> Callable[..., None]:
    """A function of the library. Its tensors are addresses, `x.data_ptr()`; what they must be, its wrapper ensures."""
    function = getattr(load_library(dtype), name)
    function.argtypes, function.restype = ARGUMENTS[name], None
    return function

"""Weights in 8 or 4 bits, as bitsandbytes holds them, and transformers with it."""

from __future__ import annotations

import torch

NONE = "none"
NF4, INT8 = "nf4", "int8"
KINDS = (NF4, INT8)
BLOCK, GROUP = 64, 256  # weights that share a scale, and scales that share one; those of QLoRA
INT8_LEVELS = 127

Encoded = dict[str, torch.Tensor]


def encode(weight: torch.Tensor, kind: str) -> Encoded:
    """(O, I), in any floating dtype, → its codes and what `decode` needs besides, by name, on the same device.

    "nf4": 4-bit NormalFloat in blocks of 64 weights with double quantisation ("QLoRA", 2305.14314), about 4.13 bits a
    weight; needs bitsandbytes. "int8": 8-bit integers with one scale for each row, as "LLM.int8()" (2208.07339) holds
    weights.
    """
    if kind == INT8:
        rounded = weight.half().float()  # which bitsandbytes does first
        scales = rounded.abs().amax(dim=1)
        levels = rounded * (INT8_LEVELS / scales.clamp(min=torch.finfo(scales.dtype).tiny))[:, None]
        return {"codes": levels.round().to(torch.int8), "scales": scales}
    from bitsandbytes import functional  # pyright: ignore[reportMissingImports]  (an extra)

    codes, state = functional.quantize_4bit(
        weight.contiguous(), blocksize=BLOCK, compress_statistics=True, quant_type=NF4
    )
    nested = state.state2
    return {
        "codes": codes,
        "levels": state.code,
        "scales": state.absmax,
        "scales_mean": state.offset,
        "scales_levels": nested.code,
        "scales_scales": nested.absmax,
    }


def decode(encoded: Encoded, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """The inverse of `encode`, up to rounding: (O, I) of this dtype."""
    if "levels" not in encoded:
        return (encoded["codes"] * encoded["scales"][:, None] * (1 / INT8_LEVELS)).to(dtype)
    from bitsandbytes.functional import QuantState, dequantize_4bit  # pyright: ignore[reportMissingImports]

    nested = QuantState(
        absmax=encoded["scales_scales"], code=encoded["scales_levels"], blocksize=GROUP, dtype=torch.float32
    )
    state = QuantState(
        absmax=encoded["scales"],
        shape=shape,
        code=encoded["levels"],
        blocksize=BLOCK,
        quant_type=NF4,
        dtype=dtype,
        offset=encoded["scales_mean"],
        state2=nested,
    )
    return dequantize_4bit(encoded["codes"], state)

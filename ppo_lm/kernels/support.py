"""Which kernels can take tensors: C++ on CPUs with a compiler, Triton on most GPUs."""

from __future__ import annotations

import functools
from types import ModuleType

import torch

from ppo_lm.errors import first_line
from ppo_lm.kernels import cpu, gpu

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def find(*tensors: torch.Tensor) -> ModuleType | None:
    """`cpu` or `gpu`, if its kernels can take these tensors: all on that device, in fp32, bf16 or (on a GPU) fp16, with
    rows that have no gaps. A CPU's kernels take tensors of one dtype."""
    device, dtype = tensors[0].device, tensors[0].dtype
    dtypes = (dtype,) if device.type == "cpu" else DTYPES
    if not all(x.device == device and x.dtype in dtypes and x.stride(-1) == 1 for x in tensors):
        return None
    return (cpu if device.type == "cpu" else gpu) if why_not(device, dtype) is None else None


def find_on_gpu(*tensors: torch.Tensor) -> ModuleType | None:
    """`gpu`, for kernels that CPUs need not have."""
    return find(*tensors) if tensors[0].device.type != "cpu" else None


def find_on_cpu(*tensors: torch.Tensor) -> ModuleType | None:
    """`cpu`, for kernels that GPUs need not have from us."""
    return find(*tensors) if tensors[0].device.type == "cpu" else None


def find_products(*tensors: torch.Tensor) -> ModuleType | None:
    """`cpu`, if its products of these matrices are faster than torch's."""
    device, dtype = tensors[0].device, tensors[0].dtype
    if device.type != "cpu" or why_not(device, dtype) is not None or not cpu.products_are_ahead(dtype):
        return None
    return cpu if all(x.dtype == dtype and x.is_cpu and 1 in x.stride() for x in tensors) else None


@functools.cache
def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a device cannot run the kernels, a clause; None if it can. A compiler may be missing, or Triton."""
    if device.type == "cpu":
        return _why_not_cpu(dtype)
    if device.type != "cuda":
        return f"there are none for {device.type}"
    return why_not_triton(device, dtype)


def _why_not_cpu(dtype: torch.dtype) -> str | None:
    try:
        cpu.load_library(dtype)
    except cpu.NoKernels as error:
        return str(error)
    return None


def why_not_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    """Whether Triton's kernels fail on the device, and how."""
    try:
        gpu.exponentials(torch.zeros(1, 1, device=device, dtype=dtype), 1.0, True, True)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:
        return f"Triton fails its trial: {type(error).__name__}: {first_line(error)}"
    return None

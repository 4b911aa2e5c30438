"""Kernels of our own in place of several operations of torch: C++ on CPUs, Triton on GPUs. `find(...)` is the room of
those that can take some tensors; it is None where there are none, and torch's operations take their place."""

from ppo_lm.kernels.support import find, find_on_cpu, find_on_gpu, find_products, why_not

__all__ = ["find", "find_on_cpu", "find_on_gpu", "find_products", "why_not"]

"""Cases for the kernels, on any device: inputs, and what the formulas give for them in fp64."""

import torch

from ppo_lm.fast.blocks import Norm

OFF = {torch.float32: 1e-6, torch.bfloat16: 4e-3}
"""Relative, for results rounded once; twice the root mean square of bf16's rounding errors is 3.3e-3."""
HEADS = [(5, 3, 8), (33, 4, 64), (7, 6, 80), (3, 24, 128), (2, 9, 256)]
"""(tokens, heads, size)"""


def random(*shape, device, dtype, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def heads_and_angles(tokens, heads, size, device, dtype):
    """Heads that are part of a wider row, as those of a fused projection are."""
    wide = random(tokens, heads + 2, size, device=device, dtype=dtype)
    angles = random(tokens, 1, size // 2, device=device, dtype=torch.float32, seed=1) * 100
    cos, sin = torch.cat([angles, angles], dim=2).cos(), torch.cat([-angles, angles], dim=2).sin()
    return wide[:, 1:-1], cos.to(dtype), sin.to(dtype)


def rotated(x, cos, sin):
    x, cos, sin = x.double(), cos.double(), sin.double()
    first, second = x.chunk(2, dim=2)
    return x * cos + torch.cat([second, first], dim=2) * sin


def norms(size, device, dtype):
    return [
        Norm(1 + random(size, device=device, dtype=dtype, seed=seed) / 4, eps) for seed, eps in ((2, 1e-2), (3, 0.5))
    ]


def normed(x, norm):
    x = x.double()
    return x / (x.square().mean(dim=2, keepdim=True) + norm.eps).sqrt() * norm.weight.double()


def gate_and_up(rows, width, device, dtype):
    """Side by side, as the decoder's are."""
    gate, up = (4 * random(rows, 2 * width, device=device, dtype=dtype)).chunk(2, dim=1)
    return gate, up


def product(gate, up):
    return gate * torch.sigmoid(gate) * up


def product_and_gradients(grad, gate, up):
    exact = [x.double().requires_grad_() for x in (gate, up)]
    made = product(*exact)
    return made.detach(), *torch.autograd.grad(made, exact, grad.double())


def assert_close(found, expected, dtype):
    assert found.dtype == dtype and found.is_contiguous() and found.shape == expected.shape
    assert (found.double() - expected).norm() / expected.norm() < OFF[dtype]
    worst = (found.double() - expected).abs() / expected.abs().clamp_min(1)
    assert worst.max() < 4 * OFF[dtype]

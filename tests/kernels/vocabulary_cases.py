"""Rows of logits for the kernels, and what the formulas give in fp64."""

import torch

# rows, columns, dtype, whether rows are parts of wider ones, temperature
CASES = {
    "one column": (3, 1, torch.float32, False, 1.0),
    "less than a block": (4, 100, torch.float32, False, 0.7),
    "several blocks": (3, 9001, torch.float32, False, 1.3),
    "in bf16": (3, 5000, torch.bfloat16, False, 1.0),
    "parts of wider rows": (5, 77, torch.float32, True, 1.0),
}


def make_logits(rows, width, dtype, part, temperature):
    """With large numbers, and -inf where a support has no token."""
    g = torch.Generator().manual_seed(width)
    logits = torch.randn(rows, width + 3, generator=g) * 12
    logits[:, 4::5] = -torch.inf
    logits = logits.to(dtype)
    return logits[:, 3:] if part else logits[:, 3:].contiguous()


def expected(rows, width, dtype, part, temperature):
    """highest, total, mean, weights and slopes."""
    z = make_logits(rows, width, dtype, part, temperature).double() / temperature
    highest = z.amax(dim=1, keepdim=True)
    below = (z - highest).clamp(min=-1e9)
    weights = below.exp()
    total = weights.sum(dim=1, keepdim=True)
    mean = (weights * below).sum(dim=1, keepdim=True) / total
    return highest, total, mean, weights, weights * (below - mean)

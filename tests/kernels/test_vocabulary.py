"""The Triton kernels under Triton's interpreter, which needs no GPU, and torch's operations in their place."""

import pytest
import torch

from ppo_lm.ops.exponentials import BLOCK, exponentials, sums_of_blocks
from tests.kernels.vocabulary_cases import CASES, expected, make_logits


@pytest.fixture(scope="module")
def interpreted(interpret):
    return interpret("interpret_vocabulary")


def close(found, case):
    coarse = case[2] == torch.bfloat16
    for ours, exact in zip(found, expected(*case), strict=True):
        off = 1e-2 if ours.dtype == torch.bfloat16 else 1e-5  # the interpreter does not round to bf16, it truncates
        assert ours.dtype == torch.float32 or coarse
        torch.testing.assert_close(ours.double(), exact, rtol=off, atol=off)


def close_sums(found, case):
    *statistics, weights, _ = expected(*case)
    blocks = [part.sum(dim=1) for part in weights.split(BLOCK, dim=1)]
    for ours, exact in zip(found, (*statistics, torch.stack(blocks, dim=1)), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_kernels_give_what_the_formulas_give(interpreted, name):
    close(interpreted["exponentials"][name], CASES[name])
    close_sums(interpreted["sums_of_blocks"][name], CASES[name])


@pytest.mark.fast
@pytest.mark.parametrize("name", CASES)
def test_torchs_operations_give_what_the_formulas_give(name, without_kernels):
    close(exponentials(make_logits(*CASES[name]), CASES[name][-1], True, True), CASES[name])
    close_sums(sums_of_blocks(make_logits(*CASES[name]), CASES[name][-1]), CASES[name])

"""The attention kernels for GPUs under Triton's interpreter, against the formula."""

import pytest
import torch

from tests.kernels.attention_cases import CACHED, CASES, DTYPES

OFF = {torch.float32: 1e-6, torch.float16: 1e-3}


@pytest.fixture(scope="module")
def interpreted(interpret):
    return interpret("interpret_attention")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_give_what_the_formula_gives(interpreted, dtype):
    for name, case in CASES.items():
        expected = case.expected(dtype)
        for ours, exact in zip(interpreted[0][name, dtype], expected, strict=True):
            assert (ours.dtype, ours.shape, ours.is_contiguous()) == (dtype, exact.shape, True), name
            scale = max(exact.norm(), expected[0].norm())  # the gradient of a token's only key is 0
            assert (ours.double() - exact).norm() / scale < OFF[dtype], name


def test_a_row_does_not_depend_on_the_others(interpreted):
    for alone, with_others in zip(*interpreted[1], strict=True):
        assert torch.equal(alone, with_others)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_token_at_a_time_they_give_the_same(interpreted, dtype):
    """Memory that nothing was written to is not a number, and is never read."""
    for name, case in CACHED.items():
        out, keys, values = interpreted[2][name, dtype]
        expected = case.expected(dtype)[0]
        assert (out.double() - expected).norm() / expected.norm() < OFF[dtype], name
        assert torch.equal(keys, case.tensors(dtype)[2]) and torch.equal(values, case.tensors(dtype)[3]), name

"""Our attention kernels on the device, against the formula in fp64, and the same every time."""

import pytest
import torch

from ppo_lm.fast.attention import find_kernels
from tests.kernels.attention_cases import CACHED, CASES, attend, attend_token_by_token

DTYPE, OFF = torch.bfloat16, 1e-2


def kernels_for(case, device):
    found = find_kernels(*(x.to(device) for x in case.tensors(DTYPE)[1:]))
    if found is None:
        pytest.skip("there are none for this device")
    return found


@pytest.mark.parametrize("name", CASES)
def test_rows_give_what_the_formula_gives_twice(device, name):
    case = CASES[name]
    own, expected = kernels_for(case, device), case.expected(DTYPE)
    arguments = [x.to(device) for x in (*case.tensors(DTYPE), case.boundaries())]
    first, again = (attend(case, *arguments, own=own) for _ in range(2))
    for found, same, exact in zip(first, again, expected, strict=True):
        assert torch.equal(found, same)
        scale = max(exact.norm(), expected[0].norm())  # the gradient of a token's only key is 0
        assert (found.cpu().double() - exact).norm() / scale < OFF


@pytest.mark.parametrize("name", CACHED)
def test_a_token_at_a_time_they_give_the_same(device, name):
    case = CACHED[name]
    out, keys, values = attend_token_by_token(case, DTYPE, kernels_for(case, device), device)
    expected = case.expected(DTYPE)[0]
    assert (out.cpu().double() - expected).norm() / expected.norm() < OFF
    assert torch.equal(keys.cpu(), case.tensors(DTYPE)[2]) and torch.equal(values.cpu(), case.tensors(DTYPE)[3])

"""Attention to keys and values that are kept, against the formula in fp64."""

import pytest
import torch

from ppo_lm.fast.attention import attend_cached

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-4)])
@pytest.mark.parametrize("length", [1, 40, 600])
def test_cached_attention_is_that_of_fp64_up_to_one_rounding(dtype, off, length):
    torch.manual_seed(0)
    q, keys, values = (torch.randn(6, rows, 16).to(dtype) for rows in (3, length, length))
    bias = torch.zeros(6, 3, length)
    bias[:, :, length // 2 + 1 :] = -torch.inf
    scores = q.double() @ keys.double().transpose(1, 2) * 0.25 + bias
    expected = scores.softmax(dim=-1) @ values.double()
    found = attend_cached(q, keys, values, bias.to(dtype), 0.25)
    assert found.dtype == dtype
    assert (found.double() - expected).abs().mean() < off

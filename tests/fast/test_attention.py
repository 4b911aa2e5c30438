"""Attention to keys and values that are kept, against the formula in fp64."""

import pytest
import torch

from ppo_lm.fast.attention import attend_cached, cached_bias

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-4)])
@pytest.mark.parametrize("length", [1, 40, 600])
@pytest.mark.parametrize("groups", [1, 3])
def test_cached_attention_is_that_of_fp64_up_to_one_rounding(dtype, off, length, groups):
    torch.manual_seed(0)
    responses, kv_heads, size = 5, 2, 16
    q = torch.randn(responses, kv_heads * groups, size).to(dtype)
    keys, values = (torch.randn(responses, kv_heads, length + 7, size).to(dtype)[:, :, :length] for _ in range(2))
    hidden = torch.arange(length) > torch.arange(responses)[:, None] * length // responses
    grouped = q.double().view(responses, kv_heads, groups, size)
    scores = (grouped @ keys.double().transpose(2, 3) * 0.25).masked_fill(hidden[:, None, None], -torch.inf)
    expected = (scores.softmax(dim=-1) @ values.double()).view(responses, -1)
    found = attend_cached(q, keys, values, cached_bias(hidden, dtype, kv_heads, groups), 0.25)
    assert found.dtype == dtype
    assert (found.double() - expected).abs().mean() < off

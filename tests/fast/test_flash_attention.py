"""The way to torch's flash kernels and back, with the formula in place of the kernels, which need a GPU."""

import math

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from ppo_lm.fast import attention as attention_module
from ppo_lm.fast.flash_attention import deterministic_kernels
from tests.conftest import SMALL, make_base
from tests.fast.test_passes import left_and_right_padded, with_adapter


def formula(q, k, v, boundaries, scale, left):
    """Each row by itself, (N, H, D)."""
    found = []
    for start, end in zip(boundaries.tolist(), boundaries.tolist()[1:]):
        rows = (x[start:end].transpose(0, 1) for x in (q, k, v))
        q_row, k_row, v_row = (x.repeat_interleave(q.shape[1] // len(x), dim=0) for x in rows)
        back = torch.arange(end - start)[:, None] - torch.arange(end - start)
        hidden = (back < 0) | (back > (math.inf if left is None else left))
        scores = (q_row @ k_row.transpose(1, 2) * scale).masked_fill(hidden, -torch.inf)
        found.append((scores.softmax(dim=-1) @ v_row).transpose(0, 1))
    rest = q.new_zeros(len(q) - int(boundaries[-1]), *q.shape[1:])
    return torch.cat([*found, rest])


@pytest.fixture
def flash(monkeypatch, without_kernels):
    """Kernels on the CPU; returns the debug mode of each backward pass."""
    modes = []

    def forward(q, k, v, cu_q, cu_k, max_q, max_k, dropout, causal, mask, *, scale, **windows):
        assert cu_q.dtype == cu_k.dtype == torch.int32 and max_q == max_k == int(cu_q.diff().max())
        assert causal and not dropout and windows.get("window_size_right", 0) == 0
        empty = q.new_empty(0)
        return formula(q, k, v, cu_q, scale, windows.get("window_size_left")), empty, empty, empty, empty

    def backward(grad, q, k, v, out, lse, cu_q, cu_k, max_q, max_k, dropout, causal, seed, unused, *, scale, **windows):
        modes.append((torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory))
        torch.testing.assert_close(out, formula(q, k, v, cu_q, scale, windows.get("window_size_left")))
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in (q, k, v)]
            again = formula(*inputs, cu_q, scale, windows.get("window_size_left"))
            return torch.autograd.grad(again, inputs, grad)

    monkeypatch.setattr(attention_module, "is_supported", lambda q: True)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", forward)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_backward", backward)
    return modes


NETWORKS = {
    "grouped heads": lambda: make_base().network,
    "a window of 5 tokens": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=5)),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_rows_find_their_kernels_and_gradients_their_way_back(flash, network, checkpointed):
    results = []
    for fast in (False, True):
        torch.manual_seed(3)
        base = with_adapter(fast, NETWORKS[network]())
        if checkpointed:
            base.checkpoint_activations()
        ids, mask = left_and_right_padded()
        with base.role("policy"):
            hidden = base.hidden_states(ids, mask)[mask]
            (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
        gradients = {name: p.grad for name, p in base.network.named_parameters() if p.grad is not None}
        results.append((hidden.detach(), gradients))
    (states, gradients), (fast_states, fast_gradients) = results
    torch.testing.assert_close(fast_states, states, rtol=1e-4, atol=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(fast_gradients[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))
    assert flash == [(2, False)] * 2  # layers; 2 is "error", in which the kernels are deterministic


@pytest.mark.fast
@pytest.mark.parametrize("mode", [0, 1, 2])
def test_the_mode_of_the_process_is_restored_even_after_an_error(mode):
    def run_out_of_memory():
        with deterministic_kernels():
            seen.append(torch.get_deterministic_debug_mode())
            raise RuntimeError("out of memory")

    seen, before = [], torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(mode)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            run_out_of_memory()
        assert (seen, torch.get_deterministic_debug_mode()) == ([2], mode)
        assert torch.utils.deterministic.fill_uninitialized_memory
    finally:
        torch.set_deterministic_debug_mode(before)


@pytest.mark.fast
def test_torchs_kernels_take_the_arguments_that_we_pass():
    """By their schema: there is nothing to compute with here."""
    schemas = [getattr(torch.ops.aten, f"_flash_attention_{way}").default._schema for way in ("forward", "backward")]
    names = [[argument.name for argument in schema.arguments] for schema in schemas]
    assert names[0][3:10] == ["cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal", "return_debug_mask"]
    assert names[1][4:14] == [
        *("out", "logsumexp", "cum_seq_q", "cum_seq_k", "max_q", "max_k"),
        *("dropout_p", "is_causal", "rng_state", "unused"),
    ]
    assert all({"scale", "window_size_left", "window_size_right"} <= {*some} for some in names)

"""The package's own passes against transformers' and peft's."""

import dataclasses

import pytest
import torch
from peft.tuners import lora
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ppo_lm.base_setup import make_lora_config
from ppo_lm.fast import attention as attention_module
from ppo_lm.fast.lora_linear import LoraLinear
from ppo_lm.fast.packing import Packing
from ppo_lm.models import BaseModel
from tests.conftest import SMALL, make_base


def with_adapter(fast, network=None, dropout=0.0):
    torch.manual_seed(0)
    plain = make_base()
    base = BaseModel(network or plain.network, plain.tokenizer, [1], "random", fast)
    base.add_adapter("policy", make_lora_config(4, 8, dropout))
    torch.manual_seed(1)
    for name, parameter in base.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return base


def left_and_right_padded(rows=5, width=14):
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 1500, (rows, width), generator=g)
    starts, ends = torch.randint(0, 4, (rows, 1), generator=g), torch.randint(6, width + 1, (rows, 1), generator=g)
    places = torch.arange(width)
    return ids, (places >= starts) & (places < ends)


def states_and_gradients(base, ids, mask):
    with base.role("policy"):
        hidden = base.hidden_states(ids, mask)[mask]
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    (hidden * weights).sum().backward()
    return hidden.detach(), {name: p.grad for name, p in base.network.named_parameters() if p.grad is not None}


NETWORKS = {
    "llama": lambda: make_base().network,
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(**{name: value for name, value in SMALL.items() if name != "head_dim"})
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL)),
    "mistral, a window of 5 tokens": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=5)),
}


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("short", [512, 4], ids=["matrix products", "torch's kernel"])
@pytest.mark.parametrize("own_layers", [True, False], ids=["own layers", "transformers' layers"])
def test_packed_rows_and_own_adapters_give_the_states_and_gradients_of_transformers_and_peft(
    family, short, own_layers, monkeypatch
):
    monkeypatch.setattr(attention_module, "SHORT", short)
    results = []
    for fast in (False, True):
        torch.manual_seed(3)
        base = with_adapter(fast, NETWORKS[family]())
        assert (base.paths.accelerated is not None) == (base.paths.why_not_packed is None) == fast
        if not own_layers:
            base.paths = dataclasses.replace(base.paths, accelerated=None)
        results.append(states_and_gradients(base, *left_and_right_padded()))
    (states, gradients), (fast_states, fast_gradients) = results
    torch.testing.assert_close(fast_states, states, rtol=1e-4, atol=1e-4)
    assert gradients.keys() == fast_gradients.keys() and len(gradients) == 2 * 2 * 7
    for name, gradient in gradients.items():
        torch.testing.assert_close(fast_gradients[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_all_weights_get_the_gradients_of_transformers(family, checkpointed):
    results = []
    for fast in (False, True):
        torch.manual_seed(3)
        base = BaseModel(NETWORKS[family](), make_base().tokenizer, [1], "random", fast).copy_of_all_weights()
        if checkpointed:
            base.checkpoint_activations()
        ids, mask = left_and_right_padded()
        with base.role(None):
            hidden = base.hidden_states(ids, mask)[mask]
            (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
        results.append({name: p.grad for name, p in base.network.named_parameters() if p.grad is not None})
    theirs, ours = results
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


@pytest.mark.parametrize("family", NETWORKS)
def test_wanted_states_and_their_gradients_are_what_they_are_when_all_are_wanted(family):
    ids, mask = left_and_right_padded()
    wanted = mask & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(4)) < 0.3)
    results = []
    for asked in (None, wanted):
        torch.manual_seed(3)
        base = with_adapter(True, NETWORKS[family]())
        with base.role("policy"):
            hidden = base.hidden_states(ids, mask, asked)
        hidden[wanted].square().sum().backward()
        results.append((hidden.detach(), torch.cat([p.grad.flatten() for p in base.role_parameters("policy")])))
    (everything, gradients), (some, fewer) = results
    torch.testing.assert_close(some[wanted], everything[wanted], rtol=1e-5, atol=1e-5)
    assert torch.equal(some[~wanted], torch.zeros_like(some[~wanted]))
    torch.testing.assert_close(fewer, gradients, rtol=1e-4, atol=1e-5 * float(gradients.abs().max()))


def test_a_bfloat16_network_reads_within_rounding_of_its_float32_self():
    ids, mask = left_and_right_padded()
    states = [
        states_and_gradients(BaseWithAdapter, ids, mask)[0].float()
        for BaseWithAdapter in (with_adapter(True), with_adapter(True, make_base(torch.bfloat16).network))
    ]
    assert 1e-4 < (states[1] - states[0]).norm() / states[0].norm() < 0.05


def test_the_window_of_the_test_above_matters():
    ids, mask = left_and_right_padded()
    torch.manual_seed(3)
    windowed = with_adapter(True, MistralForCausalLM(MistralConfig(**SMALL, sliding_window=5)))
    torch.manual_seed(3)
    whole = with_adapter(True, MistralForCausalLM(MistralConfig(**SMALL, sliding_window=None)))
    assert (states_and_gradients(windowed, ids, mask)[0] - states_and_gradients(whole, ids, mask)[0]).abs().max() > 0.1


def test_a_network_whose_attention_does_more_keeps_its_own_passes():
    """Gemma 2 caps its attention scores, at a height that a short trial would not reach."""
    torch.manual_seed(0)
    network = Gemma2ForCausalLM(
        Gemma2Config(**{**SMALL, "initializer_range": 1.0}, attn_logit_softcapping=50.0, query_pre_attn_scalar=8)
    )
    before = network.config._attn_implementation
    base = with_adapter(True, network)
    assert base.paths.why_not_packed and "softcap" in base.paths.why_not_packed
    assert base.network.config._attn_implementation == before
    ids, mask = left_and_right_padded()
    with base.role("policy"), torch.no_grad():
        states = base.hidden_states(ids, mask)
        for row in range(len(ids)):
            alone = network.get_decoder()(input_ids=ids[row][mask[row]][None], use_cache=False).last_hidden_state[0]
            torch.testing.assert_close(states[row][mask[row]], alone, rtol=1e-4, atol=1e-4)


def test_dropout_goes_through_pefts_own_pass():
    base = with_adapter(True, dropout=0.5)
    ids, mask = left_and_right_padded()
    with base.role("policy"), torch.no_grad():
        still = [base.hidden_states(ids, mask)[mask] for _ in range(2)]
        with base.dropout():
            dropped = [base.hidden_states(ids, mask)[mask] for _ in range(2)]
    assert torch.equal(*still)
    assert not torch.allclose(*dropped)


def test_a_role_without_an_adapter_in_some_layers_reads_them_plainly():
    """As when the reward model was trained on fewer layers than the policy."""
    ids, mask = left_and_right_padded()
    results = []
    for fast in (False, True):
        base = with_adapter(fast)
        base.add_adapter("few", make_lora_config(4, 8, 0.0, "q_proj,v_proj"))
        torch.manual_seed(2)
        for parameter in base.role_parameters("few"):
            torch.nn.init.normal_(parameter, std=0.3)
        with base.role("few"):
            results.append(base.hidden_states(ids, mask)[mask].detach())
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)
    with base.role(None):
        assert (base.hidden_states(ids, mask)[mask] - results[1]).abs().max() > 0.1


def test_every_adapter_layer_has_the_passes_and_only_in_fast_models():
    kinds = {
        fast: {type(m) for m in with_adapter(fast).network.modules() if isinstance(m, lora.Linear)}
        for fast in (True, False)
    }
    assert kinds == {True: {LoraLinear}, False: {lora.Linear}}


def test_packing_and_spreading_undo_each_other():
    _, mask = left_and_right_padded()
    packing = Packing.of(mask)
    numbers = torch.randn(*mask.shape, 3)
    packed = packing.take(torch.arange(mask.numel()).view(mask.shape))
    assert torch.equal(packing.spread(numbers[mask], mask.shape), numbers * mask[:, :, None])
    assert torch.equal(packed, torch.arange(mask.numel())[mask.flatten()])
    for row in range(len(mask)):
        assert packing.position_ids[packing.row_of == row].tolist() == list(range(int(mask[row].sum())))


def test_checkpointed_activations_give_the_same_gradients_and_keep_fewer_bytes():
    ids, mask = left_and_right_padded()
    kept, found = [], []
    for checkpointed in (False, True):
        base = with_adapter(True)
        if checkpointed:
            base.checkpoint_activations()
        total = 0

        def note(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), base.role("policy"):
            loss = base.hidden_states(ids, mask)[mask].square().sum()
        kept.append(total)
        with base.role("policy"):
            loss.backward()
        found.append({name: p.grad for name, p in base.network.named_parameters() if p.grad is not None})
    assert kept[1] < kept[0] / 3
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_dropout_of_attention_weights_is_not_lost():
    torch.manual_seed(0)
    base = with_adapter(True, make_base(attention_dropout=0.5).network)
    ids, mask = left_and_right_padded()
    assert base.paths.why_not_packed is None
    with torch.no_grad(), base.dropout():
        assert not torch.allclose(base.hidden_states(ids, mask)[mask], base.hidden_states(ids, mask)[mask])

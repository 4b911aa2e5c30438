"""Four roles on one quantised base, against plain layers that hold the dequantised weights."""

import re

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from ppo_lm.base_setup import EMBEDDED_MODEL, LoadedModel, load_base, set_up_roles
from ppo_lm.base_setup.quantising import quantise
from ppo_lm.errors import ModelError
from ppo_lm.fast.quantised_linear import QuantisedLinear
from ppo_lm.models import BaseModel, PolicyModel, RewardModel, SFTModel, ValueModel
from ppo_lm.rollout import PlainEngine, SamplingSettings, pick_engine
from ppo_lm.run.identity import identify_base
from tests.conftest import make_base, make_pairs, uniforms
from tests.quantised.conftest import KINDS, add_random_adapter, bytes_held, needs_bitsandbytes, quantised_and_plain


def numbers_of(base):
    """What each role computes on it, and the gradients of its weights."""
    pairs = make_pairs(dtype=torch.float32)
    for role in ("policy", "value", "reward"):
        add_random_adapter(base, role)
    policy, value, reward = PolicyModel(base), ValueModel(base), RewardModel(base)
    for head in (value.head, reward.head):
        torch.manual_seed(2)
        torch.nn.init.normal_(head.linear.weight)
    found = [
        policy.action_logprobs(pairs),
        value.values(pairs),
        reward.scores(pairs.input_ids, pairs.attention_mask),
    ]
    for numbers in found:
        numbers.square().sum().backward()
    weights = [*policy.parameters(), *value.parameters(), *reward.parameters()]
    return [*(n.detach() for n in found), SFTModel(base).action_logprobs(pairs), *(w.grad for w in weights)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fast", [True, False], ids=["own passes", "transformers' passes"])
def test_all_roles_give_the_numbers_and_gradients_of_the_dequantised_weights(folder, kind, dtype, fast):
    base, plain = quantised_and_plain(folder, kind, dtype, fast)
    assert (base.paths.accelerated is not None) == fast
    found, expected = numbers_of(base), numbers_of(plain)
    assert len(found) > 80 and any(part.norm() > 0 for part in found[4:])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_with_dropout_and_checkpointing_too(folder, kind):
    """Supervised stages read rows through transformers' layers, and peft's own pass."""
    results, pairs = [], make_pairs(dtype=torch.float32)
    for base in quantised_and_plain(folder, kind):
        add_random_adapter(base, "policy", dropout=0.3)
        base.checkpoint_activations()
        policy = PolicyModel(base)
        torch.manual_seed(3)
        with base.dropout(), base.role("policy"):
            states = base.hidden_states(pairs.input_ids, pairs.attention_mask)
            states.square().sum().backward()
        results.append([states.detach()[pairs.attention_mask], *(weight.grad for weight in policy.parameters())])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_tokens_have_the_log_probabilities_that_are_trained_on(folder, kind):
    base = load_base(folder, "float32", "cpu", quantisation=kind)
    add_random_adapter(base, "policy")
    policy, settings = PolicyModel(base), SamplingSettings(6, 1.0)
    engine = pick_engine(policy)
    assert isinstance(engine, PlainEngine) and f"its weights are held in {kind}" in engine.description
    ids = torch.tensor([[5, 6, 7, 8]] * 3)
    engine.update_weights(policy)
    sampled = engine.sample(ids, torch.ones_like(ids).bool(), settings, uniforms(ids, settings))
    rows = torch.cat([ids, sampled.ids], dim=1)
    with base.role("policy"):
        states = base.hidden_states(rows, torch.ones_like(rows).bool())[:, 3:-1]
    exact = base.logits(states).log_softmax(dim=2).gather(2, sampled.ids[:, :, None])[:, :, 0]
    real = ~((sampled.ids == 1).long().cumsum(dim=1) - (sampled.ids == 1).long()).bool()
    torch.testing.assert_close(sampled.logprobs[real], exact[real].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "most"), [("int8", 1.05), pytest.param("nf4", 0.54, marks=needs_bitsandbytes)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_the_linear_layers_of_the_blocks_are_held_in_fewer_bytes(kind, most, dtype):
    """`most`: bytes for each of their weights; tables of levels count too."""
    base, plain = (load_base("embedded", dtype, "cpu", quantisation=each) for each in (kind, "none"))
    blocks = plain.network.get_decoder().layers
    linear = sum(layer.weight.numel() for layer in blocks.modules() if isinstance(layer, torch.nn.Linear))
    rest = bytes_held(plain.network) - linear * plain.dtype.itemsize
    before, after = bytes_held(plain.network), bytes_held(base.network)
    assert rest < after < rest + most * linear + 28 * 2048 < before
    assert base.description.startswith(f"2.1M parameters, {dtype}, cpu; 86% of them in {kind}")
    for name, parameter in base.network.named_parameters():
        assert parameter.dtype == plain.dtype and not parameter.requires_grad
        assert torch.equal(parameter, plain.network.get_parameter(name))
    assert {type(m) for m in (base.network.lm_head, base.network.get_decoder().embed_tokens)} == {
        torch.nn.Linear,
        torch.nn.Embedding,
    }


@needs_bitsandbytes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_the_weights_are_those_that_transformers_quantises_with_bitsandbytes(kind, dtype):
    from transformers import BitsAndBytesConfig

    options = dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    config = BitsAndBytesConfig(**(options if kind == "nf4" else dict(load_in_8bit=True)))
    theirs = AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL, dtype=dtype, quantization_config=config).dequantize()
    ours = load_base("embedded", str(dtype).removeprefix("torch."), "cpu", quantisation=kind).network.state_dict()
    assert ours.keys() == theirs.state_dict().keys()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours[name], weight.to(dtype)), name


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_merged_into_the_dequantised_weights(folder, kind):
    base = load_base(folder, "float32", "cpu", quantisation=kind)
    add_random_adapter(base, "policy")
    merged, kept = base.merged_network("policy")
    assert kept == pytest.approx(1.0, abs=1e-4)
    assert not any(isinstance(module, QuantisedLinear) for module in merged.modules())
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with base.role("policy"):
        states = base.hidden_states(ids, torch.ones_like(ids).bool())
    torch.testing.assert_close(merged(input_ids=ids).logits, base.logits(states), rtol=1e-4, atol=1e-4)


def saved_adapter(base, place, size=0.1):
    add_random_adapter(base, "policy", size=size)
    base.save_adapter("policy", place)
    return place


def states_of(base):
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    return base.hidden_states(ids, torch.ones_like(ids).bool())


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_stage_starts_from_what_the_last_one_trained(folder, tmp_path, kind):
    """An adapter so small that quantising its sum with the base would lose it, and another one on top."""
    first = load_base(folder, "float32", "cpu", quantisation=kind)
    adapter = saved_adapter(first, tmp_path / "first", 0.02)
    with first.role("policy"):
        expected = states_of(first)
    whole, held = (load_base(str(adapter), "float32", "cpu", quantisation=each) for each in ("none", kind))
    assert (whole.quantisation, held.quantisation) == ("none", kind) and held.peft is None
    for base in (whole, held):
        torch.testing.assert_close(states_of(base), expected, rtol=1e-4, atol=1e-4)
    lost = states_of(load_base(str(folder), "float32", "cpu", quantisation=kind))
    assert (lost - expected).norm() > 100 * (states_of(held) - expected).norm()

    second = saved_adapter(held, tmp_path / "second")
    with held.role("policy"):
        expected = states_of(held)
    for each in ("none", kind):
        base = load_base(str(second), "float32", "cpu", quantisation=each)
        torch.testing.assert_close(states_of(base), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_knows_how_its_base_was_held(folder, tmp_path, kind):
    held, plain = (load_base(folder, "float32", "cpu", quantisation=each) for each in (kind, "none"))
    adapter = saved_adapter(held, tmp_path / "adapter")
    known = list(plain.notes)
    plain.load_adapter("policy", adapter)
    assert plain.notes == [
        *known,
        f"adapter {str(adapter)!r} was trained on this base in {kind}, and is used on it without quantisation",
    ]
    again = load_base(folder, "bfloat16", "cpu", quantisation=kind)
    known = list(again.notes)
    again.load_adapter("policy", adapter)
    assert again.notes == known
    other = make_base()
    for weight in other.network.parameters():
        weight.data = torch.randn_like(weight)
    with pytest.raises(ModelError, match="was trained on other weights"):
        other.load_adapter("policy", adapter)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_knows_how_its_base_is_held(folder, kind):
    held, again, plain = (identify_base(load_base(folder, quantisation=each)) for each in (kind, kind, "none"))
    weights = "the weights of the base model"
    assert held == again and held[weights] != plain[weights]
    assert ("the version of bitsandbytes" in held) == (kind == "nf4")


def test_a_model_that_was_loaded_already_is_quantised_in_place(folder):
    plain = make_base()
    given = LoadedModel(plain.network, plain.tokenizer)
    base = load_base(folder, "float32", "cpu", loaded=given, quantisation="int8")
    assert base.network is given.network and base.quantisation == "int8"
    expected = load_base(folder, "float32", "cpu", quantisation="int8")
    assert torch.equal(states_of(base), states_of(expected))


@needs_bitsandbytes
def test_a_model_that_bitsandbytes_has_quantised_is_refused(folder, tmp_path):
    from transformers import BitsAndBytesConfig

    options = dict(quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    network, tokenizer = AutoModelForCausalLM.from_pretrained(folder, **options), make_base().tokenizer
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for given in (None, LoadedModel(network, tokenizer)):
        with pytest.raises(ModelError, match="is quantised already, by bitsandbytes; use the model that it was made"):
            load_base(str(tmp_path), "bfloat16", "cpu", loaded=given)


def test_a_kind_that_is_unknown_is_refused(folder, tmp_path):
    """As in an adapter of a later version."""
    base = load_base(folder, "float32", "cpu", quantisation="int8")
    base.quantisation = "nf2"
    adapter = saved_adapter(base, tmp_path / "adapter")
    with pytest.raises(ModelError, match="a base in 'nf2' is not one that ppo_lm can hold; it knows nf4, int8"):
        load_base(str(adapter), "float32", "cpu")


def test_what_cannot_be_quantised_or_trained_is_refused(folder):
    network = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=128))
    with pytest.raises(ModelError, match=re.escape("it cannot be quantised (Conv1D); set quantise_base to none")):
        quantise(network, "int8", torch.device("cpu"), "it")
    damaged = make_base().network
    damaged.get_parameter("model.layers.0.mlp.up_proj.weight").data[0, 0] = torch.nan
    with pytest.raises(ModelError, match="it is damaged: model.layers.0.mlp.up_proj.weight holds NaN"):
        quantise(damaged, "int8", torch.device("cpu"), "it")
    base = load_base(folder, quantisation="int8")
    assert isinstance(base, BaseModel)
    with pytest.raises(ModelError, match="is held in int8, so it cannot be sharded"):
        base.shard(base.device)
    with pytest.raises(ModelError, match="are held in int8, so they are frozen"):
        set_up_roles(base, lora_r=0, lora_alpha=8, lora_dropout=0.0, lora_targets="all-linear")

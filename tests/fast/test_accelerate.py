"""One trial decides whether a network is run by passes and a decoder of our own."""

import copy

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MinistralConfig,
    MinistralForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from ppo_lm.base_setup import make_lora_config
from ppo_lm.fast import accelerate as accelerate_module
from ppo_lm.fast import decoder as decoder_module
from ppo_lm.fast import fused_linear, kv_cache, passes
from ppo_lm.fast.accelerate import Accelerated, accelerate
from ppo_lm.fast.attention import PackedRows
from ppo_lm.fast.blocks import FAMILIES, llama
from ppo_lm.fast.paths import find_paths
from ppo_lm.fast.trial import is_refusal
from ppo_lm.kernels import cpu
from ppo_lm.models import BaseModel, PolicyModel
from ppo_lm.rollout import PlainEngine, SamplingSettings, SlotEngine, pick_engine
from ppo_lm.token_attribution import extract_actions
from tests.conftest import (
    NOTES_OF_OWN_PASSES,
    SMALL,
    WHY_NO_KERNELS,
    make_base,
    make_pairs,
    uniforms,
    use_no_kernels,
)

DTYPES = [torch.float32, torch.bfloat16]


def make_network(dtype=torch.float32, window=None):
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**SMALL, sliding_window=window)).to(dtype).eval()


def rough_network():
    """16 layers with sharp attention, in bf16: all positions taken together, transformers' own pass and ours, both
    right, differ by more than 0.1."""
    network = make_base(num_hidden_layers=16).network
    for layer in network.model.layers:
        layer.self_attn.q_proj.weight.data *= 4
    return network.bfloat16()


def sees_one_token_too_many(monkeypatch):
    use_no_kernels(monkeypatch)
    right = PackedRows._make_bias

    def wrong(rows, dtype, window):
        bias = right(rows, dtype, window)
        return torch.cat([bias[:, rows.groups :], torch.zeros_like(bias[:, -rows.groups :])], dim=1)

    monkeypatch.setattr(PackedRows, "_make_bias", wrong)


def turns_heads_the_other_way(module, name="rotate"):
    def change(monkeypatch):
        right = getattr(module, name)
        monkeypatch.setattr(module, name, lambda x, cos, sin, *norm: right(x, cos, -sin, *norm))

    return change


def decodes_without_the_newest_token(monkeypatch):
    use_no_kernels(monkeypatch)
    right = kv_cache.KVMemory._bias
    monkeypatch.setattr(
        kv_cache.KVMemory, "_bias", lambda memory, place, window, width: right(memory, place - 1, window, width)
    )


def decodes_with_padding(monkeypatch):
    """Responses look as far as the longest does."""
    use_no_kernels(monkeypatch)
    right = kv_cache.KVMemory._bias

    def wrong(memory, place, window, width):
        return right(memory, place.clamp(min=int(place.max())), window, width)

    monkeypatch.setattr(kv_cache.KVMemory, "_bias", wrong)


def passes_with_keys_one_place_off(monkeypatch):
    right = cpu.attend
    monkeypatch.setattr(cpu, "attend", lambda q, k, *more: right(q, k.roll(1, 0), *more))


def decodes_one_place_too_early(monkeypatch):
    attend_cached, decode = cpu.attend_cached, cpu.decode

    def attend_wrongly(q, k, v, keys, values, places, *more):
        return attend_cached(q, k, v, keys, values, (places - 1).clamp(min=0), *more)

    def decode_wrongly(parts, x, cos, sin, places, *more):
        return decode(parts, x, cos, sin, (places - 1).clamp(min=0), *more)

    monkeypatch.setattr(cpu, "attend_cached", attend_wrongly)
    monkeypatch.setattr(cpu, "decode", decode_wrongly)


def forgets_the_adapters_scale(module):
    def change(monkeypatch):
        right = module.adapted
        monkeypatch.setattr(module, "adapted", lambda layer, role: right(layer, role)._replace(scale=1.0))

    return change


def mixes_up_adapters(monkeypatch):
    """Of unmerged layers that are fused, each gets another one's A."""
    right = fused_linear.put_beside

    def wrong(layers, *into):
        return right([layer._replace(a=other.a) for layer, other in zip(layers, [*layers[1:], layers[0]])], *into)

    monkeypatch.setattr(fused_linear, "put_beside", wrong)


MISTAKES = {
    "passes that see one token too many": (sees_one_token_too_many, DTYPES),
    "passes that turn heads the other way": (turns_heads_the_other_way(passes, "rotate_heads"), DTYPES),
    "passes that forget the adapter's scale": (forgets_the_adapters_scale(passes), DTYPES),
    "decoder that turns heads the other way": (turns_heads_the_other_way(decoder_module), DTYPES),
    "decoder that does not see the newest token": (decodes_without_the_newest_token, DTYPES),
    "decoder that sees padding": (decodes_with_padding, DTYPES),
    "decoder that forgets the adapter's scale": (forgets_the_adapters_scale(decoder_module), DTYPES),
    "decoder that mixes up unmerged adapters": (mixes_up_adapters, [torch.bfloat16]),
}
if not WHY_NO_KERNELS:
    MISTAKES |= {
        "passes with a kernel that is one place off": (passes_with_keys_one_place_off, DTYPES),
        "decoder with a kernel that is one place off": (decodes_one_place_too_early, DTYPES),
    }


@pytest.mark.parametrize(
    ("mistake", "dtype"), [(name, dtype) for name, (_, dtypes) in MISTAKES.items() for dtype in dtypes]
)
@pytest.mark.parametrize("make", [make_base, lambda: None], ids=["smooth", "rough"])
def test_a_mistake_is_refused_whatever_the_dtype_and_the_rounding(mistake, dtype, make, monkeypatch):
    network = rough_network().to(dtype) if make() is None else make_base(dtype).network
    assert isinstance(accelerate(network), Accelerated)
    MISTAKES[mistake][0](monkeypatch)
    reason = accelerate(network)
    assert isinstance(reason, str)
    assert reason.startswith(f"the package's own {mistake.split()[0]} fail")
    assert "differ from transformers'" in reason


@pytest.mark.parametrize("wrong", [lambda window: window - 1, lambda window: window + 1, lambda window: None])
def test_a_wrong_window_is_refused_although_it_is_longer_than_the_rows_of_the_trial(wrong, families):
    network = make_network(window=64)
    assert isinstance(accelerate(network), Accelerated)
    families._parts["mistral"] = lambda layer: llama(layer, window=wrong(layer.self_attn.config.sliding_window))
    assert "passes fail their trial: its results differ" in accelerate(network)


def test_large_rounding_is_not_a_mistake():
    """At commit 3505535 this network was refused, and so read by transformers' layers: its rounding was above a
    tolerance that did not know how far rounding goes in it."""
    network = rough_network()
    assert isinstance(accelerate(network), Accelerated)
    assert find_paths(network, fast=True).notes == NOTES_OF_OWN_PASSES


def test_the_trial_leaves_the_network_and_torchs_random_numbers_as_they_are():
    network = make_network(torch.bfloat16, window=64)
    before, modules = (
        copy.deepcopy(network.state_dict()),
        [(name, id(module)) for name, module in network.named_modules()],
    )
    flags, config = [p.requires_grad for p in network.parameters()], network.config.to_dict()
    random = torch.get_rng_state()
    assert isinstance(accelerate(network), Accelerated)
    assert torch.equal(torch.get_rng_state(), random)
    assert [(name, id(module)) for name, module in network.named_modules()] == modules
    assert [p.requires_grad for p in network.parameters()] == flags and network.config.to_dict() == config
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not hasattr(network.get_decoder(), "peft_config")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        torch.AcceleratorError("an illegal memory access was encountered"),
        KeyboardInterrupt(),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["read_rows", "Decoder"])
def test_errors_of_memory_and_of_the_device_are_passed_on(name, error, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(accelerate_module, name, fail)
    with pytest.raises(type(error)) as caught:
        find_paths(make_network(), fast=True)
    assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        TypeError("no such argument"),
        RuntimeError("shape '[2, 3]' is invalid"),
        RuntimeError("Expected all tensors to be on the same device, but found two devices, cuda:0 and cpu!"),
        NotImplementedError("Half"),
    ],
)
def test_errors_that_mean_that_a_network_takes_something_else_are_the_reason(error, monkeypatch):
    def fail(*_, **__):
        raise error

    assert is_refusal(error)
    monkeypatch.setattr(accelerate_module, "read_rows", fail)
    [note] = find_paths(make_network(), fast=True).notes
    assert note == (
        "rows without padding, through transformers' layers: the package's own passes fail their trial: "
        f"{type(error).__name__}: {error}"
    )


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}


def small(names):
    return {name: value for name, value in SMALL.items() if name not in names}


KNOWN = "llama, mistral, qwen2, qwen3"


@pytest.mark.parametrize(
    ("make", "notes"),
    [
        (make_network, NOTES_OF_OWN_PASSES),
        (
            lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**small(["num_key_value_heads", "head_dim"]))),
            [f"rows without padding, through transformers' layers: its model_type 'gpt_neox' is not one of {KNOWN}"],
        ),
        (
            lambda: LlamaForCausalLM(LlamaConfig(**SMALL, hidden_act="gelu")),
            ["rows without padding, through transformers' layers: its activation is 'gelu'"],
        ),
        (
            lambda: LlamaForCausalLM(LlamaConfig(**SMALL, rope_parameters=DYNAMIC)),
            ["rows without padding, through transformers' layers: its rotary embedding is of type 'dynamic'"],
        ),
        (
            lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, attn_logit_softcapping=50.0)),
            [
                f"without our own passes: its model_type 'gemma2' is not one of {KNOWN}",
                "rows padded, through transformers' layers: TypeError: packed rows only support causal attention, "
                "without softcap",
            ],
        ),
    ],
    ids=["mistral", "gpt_neox", "gelu", "dynamic rope", "gemma2"],
)
def test_a_slower_path_is_reported_with_its_reason(make, notes):
    base = BaseModel(make(), make_base().tokenizer, [1], "random")
    assert base.notes == notes
    assert base.description.endswith("; ".join(["float32, cpu", *notes]))


def test_paths_that_are_off_are_reported_too():
    plain = make_base()
    assert BaseModel(plain.network, plain.tokenizer, [1], "random", fast=False).notes == [
        "rows padded, through transformers' layers: fast is off"
    ]


# A family that the package does not know: like Llama, with windows in some of its layers.


def ministral(layer):
    return llama(layer, window=layer.self_attn.sliding_window)


def make_ministral():
    torch.manual_seed(0)
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    settings = {**SMALL, "num_hidden_layers": len(kinds), "layer_types": kinds, "sliding_window": 5}
    return MinistralForCausalLM(MinistralConfig(**settings))


@pytest.fixture
def families(monkeypatch):
    monkeypatch.setattr(FAMILIES, "_parts", dict(FAMILIES._parts))
    return FAMILIES


def adapted_policy(network, fast=True):
    base = BaseModel(network, make_base().tokenizer, list(range(1, 150)), "random", fast)
    base.add_adapter("policy", make_lora_config(4, 8, 0.0))
    torch.manual_seed(1)
    for parameter in base.role_parameters("policy"):
        torch.nn.init.normal_(parameter, std=0.3)
    return PolicyModel(base)


def test_a_new_family_is_one_function(families):
    assert "'ministral' is not one of" in accelerate(make_ministral())
    families.register("ministral")(ministral)
    ours, theirs = adapted_policy(make_ministral()), adapted_policy(make_ministral(), fast=False)
    assert isinstance(pick_engine(ours), SlotEngine) and ours.base.notes == NOTES_OF_OWN_PASSES

    pairs = make_pairs(dtype=torch.float32)
    results = []
    for policy in (ours, theirs):
        logprobs = policy.action_logprobs(pairs)
        logprobs.sum().backward()
        results.append((logprobs.detach(), torch.cat([p.grad.flatten() for p in policy.parameters()])))
    torch.testing.assert_close(*(logprobs for logprobs, _ in results), rtol=0, atol=1e-4)
    torch.testing.assert_close(*(gradient for _, gradient in results), rtol=1e-3, atol=1e-3)

    prompts = (pairs.input_ids[:, :6], pairs.attention_mask[:, :6])
    ours, theirs = (
        engine.sample(*prompts, SamplingSettings(20), uniforms(prompts[0], SamplingSettings(20)))
        for engine in (pick_engine(ours), PlainEngine(theirs))
    )
    real = extract_actions(theirs.ids, list(range(1, 150)), 0)[1]
    assert torch.equal(ours.ids[real], theirs.ids[real])
    torch.testing.assert_close(ours.logprobs[real], theirs.logprobs[real], rtol=0, atol=1e-4)


def test_a_function_that_leaves_out_what_some_layers_do_is_noticed(families):
    """Every second layer of this SmolLM3 has no rotary embedding, which a block cannot say."""
    torch.manual_seed(0)
    settings = {**SMALL, "num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]}
    network = SmolLM3ForCausalLM(SmolLM3Config(**settings))
    families.register("smollm3")(llama)
    assert "passes fail their trial: its results differ" in accelerate(network)
    network = SmolLM3ForCausalLM(SmolLM3Config(**{**settings, "no_rope_layers": [1, 1, 1, 1]}))
    assert isinstance(accelerate(network), Accelerated)

"""Small adapters on bf16 weights: what is sampled, scored and trained is the same policy as in fp32.

With |B| = 1e-5, as after Adam's first step at that learning rate, an adapter changes a log-probability by less than
bf16 rounds it. So the effect is measured many times: every prompt is the same but for a jitter of a few percent in its
embeddings, which changes the rounding and hardly the effect. B is ±1e-5 in the direction of the gradient of one
difference of logits, and the top two tokens are sampled from, so that log-probabilities say what became of it.
"""

from functools import cache

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ppo_lm.base_setup import EMBEDDED_MODEL, make_lora_config
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.fast.adapted_linear import AdaptedLinear, apply
from ppo_lm.fast.fused_linear import FusedLinear
from ppo_lm.models import BaseModel, PolicyModel
from ppo_lm.rollout import PlainEngine, SamplingSettings, SlotEngine
from tests.conftest import uniforms

ROWS, LENGTH, VOCABULARY = 4096, 3, 1024


def make_policy(dtype, fast=True):
    torch.manual_seed(0)
    settings = dict(hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4)
    network = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, initializer_range=0.08, **settings))
    words = network.get_input_embeddings().weight.data
    words.copy_(words[5] + 0.02 * words)
    base = BaseModel(network.bfloat16().to(dtype), AutoTokenizer.from_pretrained(EMBEDDED_MODEL), [1], "random", fast)
    torch.manual_seed(1)
    base.add_adapter("policy", make_lora_config(64, 128, 0.0))
    return PolicyModel(base)


@cache
def prompts():
    ids = torch.randint(2, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    return ids, torch.ones_like(ids, dtype=torch.bool)


def state_logits(policy):
    with policy.base.role("policy"):
        return policy.base.logits(policy.base.hidden_states(*prompts())[:, -1])


@cache
def likeliest_two_and_direction():
    """The two tokens that most prompts are followed by, and the sign of the gradient of their logits' difference."""
    policy = make_policy(torch.float32)
    logits = state_logits(policy)
    pairs, counts = logits.topk(2).indices.sort(dim=1).values.unique(dim=0, return_counts=True)
    pair = pairs[counts.argmax()]
    (logits[:, pair[0]] - logits[:, pair[1]]).sum().backward()
    return pair, [parameter.grad.sign() for parameter in policy.parameters()]


def set_b(policy, size):
    parameters = [(n, p) for n, p in policy.base.network.named_parameters() if ".policy." in n]
    _, signs = likeliest_two_and_direction()
    with torch.no_grad():
        for (name, parameter), sign in zip(parameters, signs, strict=True):
            if "lora_B" in name:
                parameter.copy_(sign * size)


def sampled(engine):
    """(B,) tokens, (B,) log-probabilities, (B,) whether one of the pair was chosen from."""
    (ids, mask), settings = prompts(), SamplingSettings(1, top_k=2)
    found = engine.sample(ids, mask, settings, uniforms(ids, settings, seed=3))
    support = found.support_ids[:, 0].sort(dim=1).values
    return found.ids[:, 0], found.logprobs[:, 0].double(), (support == likeliest_two_and_direction()[0]).all(dim=1)


def slots(policy):
    return sampled(SlotEngine(policy, MemoryBudget(ROWS * LENGTH, ROWS)))


def plain(policy):
    return sampled(PlainEngine(policy))


@torch.no_grad()
def scored(policy):
    """The first token of the pair, as scoring and training see it."""
    pair, _ = likeliest_two_and_direction()
    first = torch.zeros(ROWS, dtype=torch.bool)
    return first, state_logits(policy)[:, pair].double().log_softmax(dim=1)[:, 0], ~first


def effects(make, read, size):
    """(B,) Δ log p in fp32, and in bf16, of prompts that gave the same token with and without the adapter."""
    changes, tokens, same = [], [], True
    for dtype in (torch.float32, torch.bfloat16):
        policy, found = make(dtype), []
        for b in (0.0, size):
            set_b(policy, b)
            token, logprob, usable = read(policy)
            tokens.append(token)
            found.append(logprob)
            same = same & usable & (token == tokens[0])
        changes.append(found[1] - found[0])
    return [change[same] for change in changes]


WAYS = {
    "slots": (make_policy, slots),
    "transformers": (make_policy, plain),
    "transformers, fast off": (lambda dtype: make_policy(dtype, fast=False), plain),
    "scored": (make_policy, scored),
    "scored, fast off": (lambda dtype: make_policy(dtype, fast=False), scored),
}


@pytest.mark.parametrize("way", WAYS)
def test_all_of_an_adapter_of_1e_5_is_seen_in_bf16(way):
    exact, coarse = effects(*WAYS[way], 1e-5)
    assert len(exact) > 0.9 * ROWS
    slope = float((exact @ coarse) / (exact @ exact))
    error = float((coarse - slope * exact).norm() / exact.norm() / len(exact) ** 0.5)
    assert error < 0.01, "too noisy to tell"
    assert 0.95 <= slope <= 1.05


def random_layers():
    g = torch.Generator().manual_seed(0)
    layers = []
    for outputs, rank, bias in ((64, 4, True), (32, 0, True), (48, 3, True)):
        weight, c = torch.randn(outputs, 40, generator=g), torch.randn(outputs, generator=g)
        a, b = torch.randn(rank, 40, generator=g), torch.randn(outputs, rank, generator=g)
        layers.append(AdaptedLinear(weight, c if bias else None, *((a, b) if rank else (None, None)), 0.7))
    return layers, torch.randn(9, 40, generator=g)


@pytest.mark.parametrize("merged", [True, False])
def test_fused_layers_give_what_each_layer_gives(merged):
    layers, x = random_layers()
    expected = [x @ (l.weight if l.a is None else l.weight + 0.7 * l.b @ l.a).T + l.bias for l in layers]
    torch.testing.assert_close(FusedLinear(layers, 9, merged)(x), torch.cat(expected, dim=1), rtol=1e-5, atol=1e-4)


def test_an_adapter_in_bf16_is_added_before_rounding_and_the_bias_too():
    """Against fp64: no more than bf16's own rounding of the result, of the bias, and of the thin products."""
    [layer, *_], x = random_layers()
    coarse = AdaptedLinear(layer.weight.bfloat16(), layer.bias.bfloat16(), layer.a, layer.b, layer.scale)
    (y,), _ = apply(x.bfloat16(), [coarse])
    whole = coarse.weight.double() + 0.7 * layer.b.double() @ layer.a.double()
    expected = x.bfloat16().double() @ whole.T + coarse.bias.double()
    assert y.dtype == torch.bfloat16
    assert (y - expected).norm() / expected.norm() < 4e-3

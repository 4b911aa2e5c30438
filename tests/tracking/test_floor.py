"""The lower bound on a step's time, by hand and by counting."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from ppo_lm.base_setup import make_lora_config
from ppo_lm.models import BaseModel
from ppo_lm.tracking.floor import Floor, Machine, Passes, count_decoding, measure_machine
from ppo_lm.types import SAPairs
from tests.conftest import make_base, make_pairs

pytestmark = pytest.mark.fast

PASSES = Passes(scored=2, scored_logprobs=1, rewards=1, trained=2, epochs=3, all_weights=False)


def test_operations_and_bytes_by_hand():
    base = make_base()
    base.add_adapter("policy", make_lora_config(4, 8, 0.0))
    config = base.network.config
    hidden, inner, heads, kv = (
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.num_key_value_heads,
    )
    size = base.network.get_decoder().layers[0].self_attn.head_dim
    layer = 2 * hidden * heads * size + 2 * hidden * kv * size + 3 * hidden * inner
    head = hidden * config.vocab_size
    pairs = make_pairs()
    tokens, actions, rows = int(pairs.attention_mask.sum()), len(pairs), pairs.sequences

    def forward(tokens, wanted):
        all_but_keys = layer - 2 * hidden * kv * size
        return 2 * (config.num_hidden_layers * layer * tokens - all_but_keys * (tokens - wanted))

    found = Floor(base.network, Machine(operations=1.0, bytes=1e-9), PASSES, slots=2).seconds(pairs)
    assert found["scoring"] == 2 * forward(tokens, actions) + 2 * head * actions
    assert found["reward"] == forward(tokens, rows)
    assert found["training"] == 3 * 2 * (2 * forward(tokens, actions) + 2 * head * actions)
    steps, cached = play_decoding(lengths(pairs), slots=2)
    numbers = steps * (config.num_hidden_layers * layer + head) + cached * 2 * config.num_hidden_layers * kv * size
    assert found["sampling"] == pytest.approx(4 * numbers / 1e-9, rel=1e-6)  # this machine hardly reads
    all_weights = Floor(base.network, Machine(1.0, 1e-9), PASSES._replace(all_weights=True), slots=2).seconds(pairs)
    assert all_weights["training"] == 1.5 * found["training"]


def lengths(pairs: SAPairs) -> list[tuple[int, int]]:
    """(prompt, response) of each row."""
    return [(int(mask.sum()) - int(n), int(n)) for mask, n in zip(pairs.attention_mask, pairs.lengths)]


def play_decoding(lengths: list[tuple[int, int]], slots: int) -> tuple[int, int]:
    """(steps, tokens whose keys and values were read) of decoding simulated step by step, always feeding the responses
    with the most tokens left, which is the shortest possible schedule."""
    made, steps, cached = [1] * len(lengths), 0, 0  # the first token comes from reading the prompt
    while any(made[row] < response for row, (_, response) in enumerate(lengths)):
        lacking = sorted(range(len(lengths)), key=lambda row: made[row] - lengths[row][1])
        for row in lacking[:slots]:
            prompt, response = lengths[row]
            if made[row] < response:
                cached += prompt + made[row]  # the newest of these is fed now
                made[row] += 1
        steps += 1
    return steps, cached


@pytest.mark.parametrize("slots", [1, 2, 3, 64])
@pytest.mark.parametrize("seed", range(5))
def test_decoding_is_counted_as_in_a_simulation(seed, slots):
    pairs = make_pairs(rows=6, prompt=5, actions=9, seed=seed)
    decoding = count_decoding(pairs, slots)
    assert (decoding.steps, decoding.cached_tokens) == play_decoding(lengths(pairs), slots)
    assert decoding.prompt_tokens == sum(prompt for prompt, _ in lengths(pairs))
    assert decoding.prompts == pairs.sequences
    assert decoding.tokens == sum(response - 1 for _, response in lengths(pairs))


def test_tokens_of_an_environment_are_read_in_parallel():
    """A prompt of 2, two sampled tokens, an observation of 2, two sampled tokens: only the second of each turn is
    decoded, with 3 and 7 tokens to read. The observation's pass also reads the token that ended the turn before it."""
    ids, yes = torch.arange(2, 10)[None], torch.ones(1, 8, dtype=torch.bool)
    sampled = torch.tensor([[True, True, False, False, True, True]])
    pairs = SAPairs(ids, yes, ids[:, 2:], sampled, torch.zeros(1, 6), torch.tensor([True]))
    assert count_decoding(pairs, slots=4) == (2 + 1 + 2, 2, 2, 2, 3 + 7)


def test_the_shape_of_qwen3_06b_on_an_h100():
    """128 responses of 256 tokens to prompts of 256, at 8e14 operations and 3e12 bytes a second, in bf16: 35.0 ms for
    the prompts and 580.5 ms for 255 decoding steps. A 256th, which the first token does not need, would make it 618 ms;
    the final length for every token, 778 ms."""
    with torch.device("meta"):
        config = Qwen3Config(
            vocab_size=151936,
            hidden_size=1024,
            intermediate_size=3072,
            num_hidden_layers=28,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
        )
        network = Qwen3ForCausalLM(config).to(torch.bfloat16)
    base = BaseModel(network, make_base().tokenizer, [1], "shape", fast=False)
    ids, yes = torch.ones(128, 512, dtype=torch.int64), torch.ones(128, 512, dtype=torch.bool)
    pairs = SAPairs(ids, yes, ids[:, 256:], yes[:, 256:], torch.zeros(128, 256), torch.ones(128, dtype=torch.bool))
    floor = Floor(base.network, Machine(8e14, 3e12), PASSES, slots=128)
    assert floor.seconds(pairs)["sampling"] == pytest.approx(0.6155, rel=1e-3)


def test_a_network_of_another_kind_has_a_floor_too():
    network = GPT2LMHeadModel(GPT2Config(vocab_size=1536, n_embd=32, n_layer=2, n_head=4, n_positions=64))
    base = BaseModel(network, make_base().tokenizer, [1], "random")
    floor = Floor(base.network, Machine(1.0, 1e-9), PASSES, slots=2)
    assert floor.layer_weights == 2 * 12 * 32**2
    assert all(seconds > 0 for seconds in floor.seconds(make_pairs()).values())


class Copies(TorchDispatchMode):
    """Keeps the largest source that was copied."""

    source = torch.zeros(0)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.copy_.default and args[1].nbytes > self.source.nbytes:
            self.source = args[1]
        return func(*args, **(kwargs or {}))


def test_a_machine_multiplies_and_copies_something_other_than_zeros():
    with Copies() as copies:
        machine = measure_machine(torch.device("cpu"), torch.float32)
    assert 1e9 < machine.operations < 1e14
    assert 1e8 < machine.bytes < 1e13
    assert copies.source.nbytes >= 2**25
    assert copies.source.count_nonzero() > 0.9 * copies.source.numel()

"""The least time of a step, by hand."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from ppo_lm.base_setup import make_lora_config
from ppo_lm.models import BaseModel
from ppo_lm.tracking.floor import Floor, Machine, Passes, measure_machine
from tests.conftest import make_base, make_pairs

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

    found = Floor(base, Machine(operations=1.0, bytes=1e-9), PASSES, slots=2).seconds(pairs)
    assert found["scoring"] == 2 * forward(tokens, actions) + 2 * head * actions
    assert found["reward"] == forward(tokens, rows)
    assert found["training"] == 3 * 2 * (2 * forward(tokens, actions) + 2 * head * actions)
    steps = -(-actions // 2)
    numbers = (
        steps * (config.num_hidden_layers * layer + head)
        + actions * tokens / rows * 2 * config.num_hidden_layers * kv * size
    )
    assert found["sampling"] == pytest.approx(4 * numbers / 1e-9, rel=1e-6)  # this machine hardly reads
    all_weights = Floor(base, Machine(1.0, 1e-9), PASSES._replace(all_weights=True), slots=2).seconds(pairs)
    assert all_weights["training"] == 1.5 * found["training"]


def test_a_network_of_another_kind_has_a_floor_too():
    network = GPT2LMHeadModel(GPT2Config(vocab_size=1536, n_embd=32, n_layer=2, n_head=4, n_positions=64))
    base = BaseModel(network, make_base().tokenizer, [1], "random")
    floor = Floor(base, Machine(1.0, 1e-9), PASSES, slots=2)
    assert floor.layer_weights == 2 * 12 * 32**2
    assert all(seconds > 0 for seconds in floor.seconds(make_pairs()).values())


def test_a_machine_multiplies_and_copies():
    machine = measure_machine(torch.device("cpu"), torch.float32)
    assert 1e9 < machine.operations < 1e14
    assert 1e8 < machine.bytes < 1e13

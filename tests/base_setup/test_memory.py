"""The size of micro-batches if the configuration leaves it open."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from ppo_lm.base_setup import describe_micro_batches, make_budget, make_lora_config, memory
from ppo_lm.models import BaseModel
from tests.conftest import SMALL, make_base

NETWORKS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL | dict(head_dim=16))),
}


@pytest.mark.parametrize("family", NETWORKS)
def test_the_estimate_is_what_a_training_pass_keeps(family):
    base = BaseModel(NETWORKS[family](), make_base().tokenizer, [1], "random")
    base.add_adapter("policy", make_lora_config(4, 8, 0.0))
    weights, kept = {weight.untyped_storage().data_ptr() for weight in base.network.parameters()}, {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(2, 1500, (8, 16), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), base.role("policy"):
        hidden = base.hidden_states(ids, torch.ones_like(ids, dtype=torch.bool))
    attention_weights = 2 * 8 * 4 * 16 * 16 * 4  # layers, rows, heads, queries, keys, bytes: not kept on a GPU
    assert hidden.requires_grad and base.paths.accelerated is not None
    per_token = (sum(kept.values()) - attention_weights) / ids.numel()
    assert 0.6 < per_token / memory.bytes_per_token(base.network) < 1.25


@pytest.mark.fast
@pytest.mark.parametrize(("share", "tokens"), [(0.1, 1024), (1.7, 1024), (2.1, 2048), (20.0, 16_384), (1e6, 32_768)])
def test_half_of_the_free_memory_is_filled_within_bounds(share, tokens, monkeypatch):
    base = make_base()
    monkeypatch.setattr(
        memory, "free_bytes", lambda device: int(share * 2 * 1024 * memory.bytes_per_token(base.network))
    )
    assert memory.fitting_tokens(base) == tokens


@pytest.mark.fast
def test_on_a_cpu_it_is_1024_and_what_is_asked_for_is_always_taken():
    base = make_base()
    assert (make_budget(base).tokens, make_budget(base, 300, slots=5).tokens) == (1024, 300)
    assert make_budget(base, 300, slots=5).slots == 5
    assert describe_micro_batches(base, None, make_budget(base)) == ""

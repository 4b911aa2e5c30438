"""Sizes without weights, against networks that have them."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ppo_lm.base_setup import load_base, make_lora_config
from ppo_lm.errors import ConfigError, ModelError
from ppo_lm.models import BaseModel
from ppo_lm.planning.network import blank_network
from ppo_lm.planning.sizes import Sizes, adapted_layers, adapter_weights
from tests.conftest import SMALL, make_base

pytestmark = pytest.mark.fast

NETWORKS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL | dict(head_dim=16))),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=1536, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
}


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize(
    ("family", "targets"),
    [("llama", "all-linear"), ("llama", "q_proj, v_proj"), ("qwen3", "all-linear"), ("gpt2", "all-linear")],
)
def test_an_adapter_is_as_large_as_that_of_peft(family, targets):
    network = NETWORKS[family]()
    expected = adapter_weights(adapted_layers(network, targets), 5)
    base = BaseModel(network, make_base().tokenizer, [1], "random")
    base.add_adapter("policy", make_lora_config(5, 8, 0.0, targets))
    assert sum(weight.numel() for weight in base.role_parameters("policy")) == expected > 0


@pytest.mark.parametrize("family", NETWORKS)
def test_weights_are_counted_once(family):
    network = NETWORKS[family]()
    stored = {weight.data_ptr(): weight.numel() for weight in network.parameters()}
    assert Sizes.of(network).weights == sum(stored.values())


@pytest.mark.parametrize(("config", "kind"), [(LlamaConfig, LlamaForCausalLM), (Qwen3Config, Qwen3ForCausalLM)])
def test_what_a_pass_keeps_is_what_the_backward_pass_gets(config, kind):
    """Rotations and the scales of norms, which are not counted, are small beside layers of this width and number."""
    network = kind(config(**SMALL | dict(hidden_size=256, intermediate_size=512, head_dim=64, num_hidden_layers=6)))
    sizes = Sizes.of(network)
    base = BaseModel(network, make_base().tokenizer, [1], "random")
    base.add_adapter("policy", make_lora_config(1, 1, 0.0))
    weights, kept = {weight.untyped_storage().data_ptr() for weight in network.parameters()}, {}

    def note(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.randint(2, 1500, (8, 16), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), base.role("policy"):
        base.hidden_states(ids, torch.ones_like(ids, dtype=torch.bool))
    attention_weights = 6 * 8 * 4 * 16 * 16  # layers, rows, heads, queries, keys
    assert base.paths.accelerated is not None
    assert sum(kept.values()) == pytest.approx(4 * (sizes.kept_by_layers * ids.numel() + attention_weights), rel=0.1)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_keys_and_values_are_those_of_the_cache(family):
    network = NETWORKS[family]()
    base = BaseModel(network, make_base().tokenizer, [1], "random")
    assert base.paths.accelerated is not None
    assert 4 * Sizes.of(network).cached == base.paths.accelerated.decoder(None, 4).bytes_per_token


def test_a_blank_network_has_the_shape_of_the_loaded_one():
    blank, loaded = blank_network("embedded", torch.float32), load_base("embedded", device="cpu").network
    shapes = [{name: weight.shape for name, weight in network.named_parameters()} for network in (blank, loaded)]
    assert shapes[0] == shapes[1] and blank.dtype == loaded.dtype
    assert all(weight.is_meta for weight in blank.parameters())


@pytest.mark.parametrize(
    ("name", "others", "every"),  # billions of weights as its model card says: without embeddings, and all
    [("0.6B", 0.44, 0.6), ("1.7B-Base", 1.4, 1.7), ("4B", 3.6, 4.0), ("8B", 6.95, 8.2)],
)
def test_published_shapes_have_the_published_number_of_weights(name, others, every):
    sizes = Sizes.of(blank_network(f"Qwen/Qwen3-{name}", torch.bfloat16))
    assert sizes.layer_weights / 1e9 == pytest.approx(others, abs=0.05)
    assert sizes.weights / 1e9 == pytest.approx(every, abs=0.05)


def test_a_folder_needs_no_weights_and_an_adapter_leads_to_its_base(tmp_path):
    LlamaConfig(**SMALL).save_pretrained(tmp_path)
    base = make_base()
    base.name = str(tmp_path)
    base.add_adapter("policy", make_lora_config(2, 4, 0.0))
    base.peft.peft_config["policy"].base_model_name_or_path = str(tmp_path)
    base.save_adapter("policy", tmp_path / "adapter")
    sizes = [Sizes.of(blank_network(str(folder), torch.float32)) for folder in (tmp_path, tmp_path / "adapter")]
    assert sizes[0] == sizes[1] == Sizes.of(LlamaForCausalLM(LlamaConfig(**SMALL)))


@pytest.mark.parametrize("name", ["no/such/folder", "./missing", "missing.gguf"])
def test_a_model_that_is_not_there(name):
    with pytest.raises(ModelError, match="there is no such file or folder"):
        blank_network(name, torch.float32)


def test_a_hub_id_that_cannot_be_reached_names_those_that_need_no_network():
    with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE.*also knows Qwen/Qwen3-0\.6B"):
        blank_network("someone/something", torch.float32)


def test_experts_and_unknown_targets_are_refused():
    with torch.device("meta"):
        mixture = MixtralForCausalLM(MixtralConfig(**SMALL, num_local_experts=2))
    with pytest.raises(ModelError, match="mixtral network has experts"):
        Sizes.of(mixture)
    with pytest.raises(ConfigError, match="lora_targets is 'nothing', but the model has .*q_proj"):
        adapted_layers(NETWORKS["llama"](), "nothing")

"""Adapters saved by plain peft: each gives what it gives in peft, or is refused by name, wherever it comes in."""

import json
import warnings

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ppo_lm.base_setup import EMBEDDED_MODEL, find_reward_folder, find_value_folder, load_base
from ppo_lm.comparison.contestants import read_contestants
from ppo_lm.config import EvaluateConfig
from ppo_lm.data import PromptSet
from ppo_lm.errors import ConfigError, ModelError
from ppo_lm.models import PolicyModel
from ppo_lm.models.reward_model import REWARD_FILES
from ppo_lm.rollout import PlainEngine, SamplingSettings, SlotEngine, pick_engine
from tests.conftest import make_base, make_pairs, uniforms

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SUPPORTED = {
    "plain": {},
    "rsLoRA": {"use_rslora": True},
    "rank pattern": {"rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 7}},
    "alpha pattern": {"alpha_pattern": {"k_proj": 32, "layers.0.mlp.up_proj": 3}},
    "both patterns and rsLoRA": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 5}, "use_rslora": True},
    "few layers": {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
    "a pattern of targets": {"target_modules": r".*\.1\..*(q_proj|down_proj)"},
    "excluded": {"exclude_modules": ["o_proj"]},
    "gaussian start": {"init_lora_weights": "gaussian"},
    "orthogonal start": {"init_lora_weights": "orthogonal"},
}
REFUSED = {
    "DoRA": ({"use_dora": True}, r"has DoRA \(use_dora\)"),
    "LoRA bias": ({"lora_bias": True}, r"has an adapter bias \(lora_bias\)"),
    "all biases": ({"bias": "all"}, r"has trained biases \(bias\)"),
    "LoRA's biases": ({"bias": "lora_only"}, r"has trained biases \(bias\)"),
    "modules to save": ({"modules_to_save": ["lm_head"]}, r"has fully trained modules \(modules_to_save\)"),
    "token embeddings": ({"trainable_token_indices": [3, 4]}, r"trained token embeddings \(trainable_token_indices\)"),
    "replicated layers": ({"layer_replication": [[0, 2], [0, 2]]}, r"replicated layers \(layer_replication\)"),
    "PiSSA": (
        {"init_lora_weights": "pissa"},
        r"an initialisation that changes the base's weights \(init_lora_weights\)",
    ),
    "OLoRA": (
        {"init_lora_weights": "olora"},
        r"an initialisation that changes the base's weights \(init_lora_weights\)",
    ),
    "embedding": ({"target_modules": ["q_proj", "embed_tokens"]}, "weights other than LoRA's .*embed_tokens"),
    "head": ({"target_modules": ["q_proj", "lm_head"]}, "weights other than LoRA's .*lm_head"),
    "activated LoRA": ({"alora_invocation_tokens": [5, 6]}, r"activated LoRA \(alora_invocation_tokens\)"),
    "two at once": ({"use_dora": True, "bias": "all"}, r"has trained biases \(bias\) and DoRA \(use_dora\)"),
}


def save_adapter(folder, start, config):
    """Train's end: an adapter of random weights on the model in `start`, written by peft. Returns peft's model."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(start), config)
        for name, parameter in model.named_parameters():
            if "lora_" in name or "ia3_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder)
    return model.eval()


def lora(**settings):
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "task_type": "CAUSAL_LM", **settings})


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A random Llama with biases, on disk."""
    folder, base = tmp_path_factory.mktemp("start"), make_base(attention_bias=True)
    base.network.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", SUPPORTED)
def test_a_supported_adapter_gives_what_it_gives_in_peft(kind, tmp_path, start):
    theirs = save_adapter(tmp_path, start, lora(**SUPPORTED[kind]))
    pairs = make_pairs(dtype=torch.float32)
    prompts = pairs.input_ids[:, :6], pairs.attention_mask[:, :6]
    with torch.no_grad():
        positions = (pairs.attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        logits = theirs(pairs.input_ids, attention_mask=pairs.attention_mask, position_ids=positions).logits[:, 5:-1]
    expected = (
        logits.log_softmax(dim=2).gather(2, pairs.action_ids[:, :, None])[:, :, 0].masked_fill(~pairs.action_mask, 0.0)
    )

    base = load_base(start, "float32", "cpu")
    base.load_adapter("policy", tmp_path)
    policy, plain = PolicyModel(base), PolicyModel(base, None)
    torch.testing.assert_close(policy.action_logprobs(pairs).detach(), expected, rtol=0, atol=1e-4)
    assert (plain.action_logprobs(pairs) - expected).abs().max() > 0.05

    merged = load_base(str(tmp_path), "float32", "cpu")
    torch.testing.assert_close(PolicyModel(merged, None).action_logprobs(pairs), expected, rtol=0, atol=1e-4)

    assert isinstance(pick_engine(policy), SlotEngine)
    for engine in (pick_engine(policy), PlainEngine(policy)):
        sampled = engine.sample(*prompts, SamplingSettings(1), uniforms(prompts[0], SamplingSettings(1)))
        found = logits[:, 0].log_softmax(dim=1).gather(1, sampled.ids[:, :1])
        torch.testing.assert_close(sampled.logprobs, found, rtol=0, atol=1e-4)

    base.copy_adapter("policy", "twin")
    torch.testing.assert_close(PolicyModel(base, "twin").action_logprobs(pairs).detach(), expected, rtol=0, atol=1e-4)


def save_head(folder):
    """What makes an adapter's folder one of a reward or value model."""
    for name in REWARD_FILES[2:]:
        (folder / name).write_bytes(b"")


DOORS = {
    "a model's name": lambda folder, start: load_base(str(folder), "float32", "cpu"),
    "load_adapter": lambda folder, start: load_base(start, "float32", "cpu").load_adapter("policy", folder),
    "a reward model's folder": lambda folder, start: find_reward_folder(str(folder)),
    "a value model's folder": lambda folder, start: find_value_folder(str(folder)),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", REFUSED)
def test_another_adapter_is_refused_by_name_wherever_it_comes_in(kind, door, tmp_path, start):
    settings, message = REFUSED[kind]
    save_adapter(tmp_path, start, lora(**settings))
    if door.endswith("folder"):
        save_head(tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        DOORS[door](tmp_path, start)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("door", DOORS)
def test_another_type_of_peft_is_refused_by_name(door, tmp_path, start):
    save_adapter(tmp_path, start, IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]))
    if door.endswith("folder"):
        save_head(tmp_path)
    with pytest.raises(ModelError, match=r"is of PEFT type IA3, which ppo_lm does not support; it accepts plain LoRA"):
        DOORS[door](tmp_path, start)


def test_evaluate_names_every_adapter_that_it_refuses_before_any_model_loads(tmp_path, start):
    for name, settings in (("dora", {"use_dora": True}), ("bias", {"lora_bias": True}), ("good", {})):
        save_adapter(tmp_path / name, start, lora(**settings))
    models = [f"{name}={tmp_path / name}" for name in ("dora", "good", "bias")]
    with pytest.raises(ConfigError) as caught:
        read_contestants(EvaluateConfig(models=models), PromptSet([]))
    assert [problem.split(" has ")[1].split(",")[0] for problem in caught.value.problems] == [
        "DoRA (use_dora)",
        "an adapter bias (lora_bias)",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, r"the adapter 'policy' has DoRA \(use_dora\)"),
        ({"target_modules": ["q_proj", "lm_head"]}, "the adapter 'policy' is on lm_head: all roles share"),
        (
            {"target_modules": ["q_proj", "embed_tokens"]},
            "the adapter 'policy' is on model.embed_tokens: all roles share",
        ),
    ],
    ids=str,
)
def test_a_fresh_adapter_of_another_kind_is_refused_too(settings, message):
    with pytest.raises(ModelError, match=message):
        make_base().add_adapter("policy", lora(**settings))


def test_a_setting_of_a_later_peft_is_refused_unless_it_is_off(tmp_path, start):
    save_adapter(tmp_path, start, lora())
    file = tmp_path / "adapter_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"use_next_idea": False, "next_idea_config": None}))
    load_base(start, "float32", "cpu").load_adapter("policy", tmp_path)
    file.write_text(json.dumps(settings | {"use_next_idea": True}))
    with pytest.raises(ModelError, match="has use_next_idea, which ppo_lm does not support"):
        load_base(start, "float32", "cpu").load_adapter("policy", tmp_path)


def test_weights_that_are_not_loras_are_refused_though_the_settings_are(tmp_path, start):
    """As after `save_pretrained(save_embedding_layers=True)`: peft would put them into the base, under all roles."""
    save_adapter(tmp_path, start, lora())
    file = tmp_path / "adapter_model.safetensors"
    name = "base_model.model.model.embed_tokens.weight"
    save_file(load_file(file) | {name: torch.zeros(1536, 32)}, file)
    base = load_base(start, "float32", "cpu")
    with pytest.raises(ModelError, match=r"has weights other than LoRA's \(model.embed_tokens.weight\)"):
        base.load_adapter("policy", tmp_path)
    assert base.network.get_input_embeddings().weight.abs().max() > 0


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_file_that_cannot_be_read_is_reported_in_one_sentence(missing, tmp_path, start):
    save_adapter(tmp_path, start, lora())
    base = load_base(start, "float32", "cpu")
    for content in (b"{", None):
        (tmp_path / missing).write_bytes(content) if content else (tmp_path / missing).unlink()
        with pytest.raises(ModelError, match=f"adapter '.*': {missing} cannot be read") as caught:
            base.load_adapter("policy", tmp_path)
        assert "\n" not in str(caught.value)


def test_adapters_that_were_saved_elsewhere_load_without_a_warning():
    base = load_base("embedded", "float32", "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for role in ("reward", "value"):
            base.load_adapter(role, EMBEDDED_MODEL / role)

"""The README beside an adapter loads it with plain libraries: the very lines are executed."""

import json
import re

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, StableLmConfig, StableLmForCausalLM

from ppo_lm.base_setup import load_base, load_reward_model, make_lora_config
from ppo_lm.models import BaseModel, PolicyModel, RewardModel
from ppo_lm.ppo_trainer.generator import SequenceGenerator
from ppo_lm.rollout import SamplingSettings
from ppo_lm.run import save_adapter, save_models
from tests.conftest import SMALL, make_base

pytestmark = pytest.mark.fast

IDS = torch.tensor([[5, 6, 7, 1, 0, 0], [8, 9, 10, 11, 12, 13]])
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6]).bool()


def run_card(folder):
    """What the lines of the README in `folder` define."""
    names = {"folder": str(folder)}
    for code in re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL):
        exec(code, names)
    return names


def adapted(base, folder, role):
    base.name = str(folder)
    base.network.save_pretrained(folder)
    base.add_adapter(role, make_lora_config(4, 8, 0.0))
    shake(base, role)
    return base


def shake(base, role):
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in base.role_parameters(role):
            weight.normal_(std=0.1)


def reward_model(base, folder):
    model = RewardModel(adapted(base, folder, "reward"))
    model.mean, model.std = 0.7, 2.5
    return model


def other_base(kind):
    small = {name: value for name, value in SMALL.items() if name != "head_dim"}
    networks = {
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=1536, n_embd=32, n_layer=2, n_head=4, n_positions=128)),
        "stablelm": lambda: StableLmForCausalLM(StableLmConfig(**small)),
    }
    torch.manual_seed(0)
    network = networks[kind]()
    network.generation_config.pad_token_id = network.config.pad_token_id = 0
    return BaseModel(network, make_base().tokenizer, [1], kind)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "stablelm"])
def test_a_reward_model_is_a_plain_sequence_classifier_with_the_same_scores(tmp_path, kind):
    base = make_base() if kind == "llama" else other_base(kind)
    model = reward_model(base, tmp_path / "base")
    assert model.save(tmp_path / "reward") == []
    expected = model.scores(IDS, MASK)
    plain = run_card(tmp_path / "reward" / "classifier")
    with torch.no_grad():
        torch.testing.assert_close(plain["scores"](IDS, MASK), expected.detach(), rtol=0, atol=1e-5)
    assert type(plain["base"]).__name__.endswith("ForSequenceClassification")


def test_without_a_classifier_in_transformers_the_run_says_so_and_a_folder_without_one_still_loads(
    tmp_path, monkeypatch
):
    model = reward_model(make_base(), tmp_path / "base")
    monkeypatch.setattr("ppo_lm.models.reward_model.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING", {})
    assert model.save(tmp_path / "reward") == [
        "transformers has no sequence classifier for llama models, so the reward model is for ppo_lm only"
    ]
    assert not (tmp_path / "reward" / "classifier").exists()
    base = make_base()
    torch.testing.assert_close(load_reward_model(base, tmp_path / "reward").scores(IDS, MASK), model.scores(IDS, MASK))


def test_a_policy_loads_with_the_lines_beside_it(tmp_path):
    base = adapted(make_base(), tmp_path / "base", "policy")
    save_adapter(PolicyModel(base), tmp_path / "adapter")
    with base.role("policy"), torch.no_grad():
        expected = base.network(IDS).logits
    with torch.no_grad():
        torch.testing.assert_close(run_card(tmp_path / "adapter")["model"](IDS).logits, expected, rtol=0, atol=1e-5)
        base.name = str(tmp_path / "adapter")  # an adapter on an adapter
        save_adapter(PolicyModel(base), tmp_path / "second")
        assert "AutoPeftModelForCausalLM.from_pretrained" in (tmp_path / "second" / "README.md").read_text()
        run_card(tmp_path / "second")


def test_a_policy_answers_with_the_lines_beside_it(tmp_path, capsys):
    policy = PolicyModel(adapted(make_base(), tmp_path / "base", "policy"))
    save_models(policy, tmp_path)
    prompt = "How do I boil an egg?"
    names = run_card(tmp_path / "adapter")
    generator = SequenceGenerator(policy, policy, SamplingSettings(64, temperature=0))
    (expected,) = generator.generate_sequences([prompt])[1]
    text = capsys.readouterr().out.strip()
    assert expected and prompt in text and names["tokenizer"].decode(names["answer"][0]).strip() == text
    assert text.removeprefix(prompt).replace("<|end|>", "") == expected


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    """A small random Llama in a GGUF file, quantised to 8 bits."""
    gguf = pytest.importorskip("gguf")
    tokenizer = json.loads(make_base().tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    file = tmp_path_factory.mktemp("gguf") / "small.Q8_0.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (len(tokens) - 2))
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["merges"]])
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {"attn_q": (32, 32), "attn_k": (32, 32), "attn_v": (32, 32), "attn_output": (32, 32)}
    shapes |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
    layers = {f"blk.{layer}.{name}": shape for layer in (0, 1) for name, shape in shapes.items()}
    rng = np.random.default_rng(0)
    for name, shape in {"token_embd": (len(tokens), 32), "output": (len(tokens), 32), **layers}.items():
        kind = gguf.GGMLQuantizationType.Q8_0
        weight = gguf.quants.quantize(rng.normal(scale=0.3, size=shape).astype(np.float32), kind)
        writer.add_tensor(f"{name}.weight", weight, raw_dtype=kind)
    for name in ("output_norm", *(f"blk.{layer}.{part}_norm" for layer in (0, 1) for part in ("attn", "ffn"))):
        writer.add_tensor(f"{name}.weight", np.ones(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_an_adapter_on_a_gguf_file_loads_with_the_lines_beside_it(gguf_file, tmp_path):
    base = load_base(str(gguf_file), "float32", "cpu")
    base.add_adapter("policy", make_lora_config(4, 8, 0.0))
    shake(base, "policy")
    save_adapter(PolicyModel(base), tmp_path / "adapter")
    assert f"gguf_file='{gguf_file.name}'" in (tmp_path / "adapter" / "README.md").read_text()
    with base.role("policy"), torch.no_grad():
        expected = base.network(IDS).logits
        torch.testing.assert_close(run_card(tmp_path / "adapter")["model"](IDS).logits, expected, rtol=0, atol=1e-5)


def test_a_reward_model_on_a_gguf_file_is_a_plain_sequence_classifier_too(gguf_file, tmp_path):
    base = load_base(str(gguf_file), "float32", "cpu")
    base.add_adapter("reward", make_lora_config(4, 8, 0.0))
    shake(base, "reward")
    model = RewardModel(base)
    model.save(tmp_path / "reward")
    with torch.no_grad():
        scores = run_card(tmp_path / "reward" / "classifier")["scores"](IDS, MASK)
        torch.testing.assert_close(scores, model.scores(IDS, MASK), rtol=0, atol=1e-5)

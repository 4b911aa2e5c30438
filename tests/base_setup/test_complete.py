"""A model is whole, or it is refused in one sentence that names what is missing or damaged."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertGenerationConfig,
    BertGenerationDecoder,
    LlamaConfig,
    LlamaForCausalLM,
)

from ppo_lm.base_setup import add_adapter, load_base, load_reward_model, make_lora_config
from ppo_lm.errors import ModelError
from ppo_lm.models import RewardModel
from ppo_lm.rewards import ClassifierReward, RewardContext
from tests.conftest import SMALL

LORA = make_lora_config(2, 4, 0.0, "all-linear")


@pytest.fixture
def model(folder, tmp_path) -> Path:
    """A copy of the random model, to damage."""
    return Path(shutil.copytree(folder, tmp_path / "model"))


@pytest.fixture
def reward(folder, tmp_path) -> Path:
    """A reward model on the random model, to damage."""
    base = load_base(folder, "float32", "cpu")
    add_adapter(base, "reward", LORA)
    RewardModel(base).save(tmp_path / "reward")
    return tmp_path / "reward"


def change(file: Path, damage) -> None:
    """Apply `damage` to the tensors in a safetensors file."""
    tensors = load_file(file)
    tensors = damage(tensors) or tensors
    save_file(tensors, file, metadata={"format": "pt"})


def without(tensors: dict, part: str) -> dict:
    return {name: tensor for name, tensor in tensors.items() if part not in name}


def refusal(load, *arguments) -> str:
    with pytest.raises(ModelError) as caught:
        load(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def load(model: Path):
    return load_base(str(model), "float32", "cpu")


def load_reward(folder: str, reward: Path):
    return load_reward_model(load_base(folder, "float32", "cpu"), reward)


@pytest.mark.parametrize(
    ("is_lost", "named"),
    [
        (lambda name: ".layers.1." in name, "model.layers.1."),
        (lambda name: "mlp" in name, "mlp.down_proj.weight"),
        (lambda name: True, "model.embed_tokens.weight"),
    ],
    ids=["a layer", "half of each layer", "everything"],
)
def test_missing_weights(model, is_lost, named):
    def lose(tensors):
        kept = {name: tensor for name, tensor in tensors.items() if not is_lost(name)}
        return kept or {"something": torch.zeros(1)}

    change(model / "model.safetensors", lose)
    message = refusal(load, model)
    assert "is not whole: its files have no" in message and named in message and "random numbers" in message


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(model, number):
    def spoil(tensors):
        tensors["model.layers.0.mlp.up_proj.weight"][1, 2] = number

    change(model / "model.safetensors", spoil)
    assert "is damaged: model.layers.0.mlp.up_proj.weight holds NaN or infinity" in refusal(load, model)


def test_finite_weights_whose_sum_overflows_are_no_damage(model):
    def grow(tensors):
        tensors["model.layers.0.mlp.up_proj.weight"][0, :2] = 3e38

    change(model / "model.safetensors", grow)
    with pytest.raises(ModelError) as caught:  # its logits are another matter
        load(model)
    assert "is damaged" not in str(caught.value)


def test_a_classifier_without_its_head(folder, tmp_path):
    config = AutoConfig.from_pretrained(folder, num_labels=1)
    AutoModelForSequenceClassification.from_pretrained(folder, config=config).save_pretrained(tmp_path / "judge")
    change(tmp_path / "judge" / "model.safetensors", lambda tensors: without(tensors, "score"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(folder) / name, tmp_path / "judge" / name)
    classifier = ClassifierReward(str(tmp_path / "judge"), "judge")
    context = RewardContext(torch.device("cpu"), lambda path: None, None)
    assert "reward 'judge' is not whole: its files have no score.weight" in refusal(classifier.make_ready, context)


@pytest.mark.filterwarnings("error")
def test_an_adapter_whose_names_match_nothing(folder, reward):
    change(
        reward / "adapter_model.safetensors",
        lambda tensors: {name.replace("layers", "blocks"): tensor for name, tensor in tensors.items()},
    )
    assert "this network has no place for base_model.model.model.blocks.0" in refusal(load_reward, folder, reward)
    (reward / "head.safetensors").unlink()
    assert "this network has no place for base_model.model.model.blocks.0" in refusal(load, reward)  # as a model


def test_an_adapter_that_lacks_a_layer(folder, reward):
    change(
        reward / "adapter_model.safetensors",
        lambda tensors: without(tensors, ".layers.1."),
    )
    assert "its file has no base_model.model.model.layers.1." in refusal(load_reward, folder, reward)


def test_an_adapter_with_nan(folder, reward):
    def spoil(tensors):
        next(iter(tensors.values()))[0, 0] = float("nan")

    change(reward / "adapter_model.safetensors", spoil)
    assert "holds NaN or infinity" in refusal(load_reward, folder, reward)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.write_bytes(b"torn"), "head.safetensors is not the head of this model"),
        (lambda file: save_file({"weight": torch.zeros(1, 7)}, file), "head.safetensors is not the head of this model"),
        (
            lambda file: change(file, lambda tensors: {**tensors, "weight": tensors["weight"] + torch.nan}),
            "holds NaN or infinity",
        ),
    ],
    ids=["torn", "of another model", "NaN"],
)
def test_a_damaged_head(folder, reward, damage, message):
    damage(reward / "head.safetensors")
    assert message in refusal(load_reward, folder, reward)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"mean": 0}', '{"mean": 0, "std": 0}', '{"mean": "x", "std": 1}', '{"mean": NaN, "std": 1}']
)
def test_a_damaged_normalisation(folder, reward, content):
    (reward / "normalisation.json").write_text(content)
    assert "normalisation.json" in refusal(load_reward, folder, reward)


def test_a_reward_model_is_no_base(reward):
    assert "is a reward or value model (head.safetensors is in its folder)" in refusal(load, reward)


def test_an_adapter_that_is_its_own_base(reward, tmp_path):
    (reward / "head.safetensors").unlink()
    other = Path(shutil.copytree(reward, tmp_path / "other"))

    def name_base(folder, base):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": str(base)}))

    name_base(reward, reward)
    assert "is its own base: adapter_config.json names" in refusal(load, reward)
    name_base(reward, other)
    name_base(other, reward)
    assert "is its own base: adapter_config.json names" in refusal(load, reward)


def other_base(folder: str, tmp_path: Path, distance: float) -> str:
    """The random model with other weights of the same shape."""
    network = load(Path(folder)).network
    torch.manual_seed(1)
    for weight in network.parameters():
        weight.data += distance * weight.data.std() * torch.randn_like(weight)
    path = Path(shutil.copytree(folder, tmp_path / "other"))
    network.save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("distance", [0.001, 1.0])
def test_a_reward_model_of_another_base_is_refused_by_name(folder, reward, tmp_path, distance):
    message = refusal(load_reward, other_base(folder, tmp_path, distance), reward)
    assert "was trained on other weights" in message and repr(str(Path(folder).resolve())) in message


def test_an_adapter_of_another_base_is_refused_as_a_model(folder, reward, tmp_path):
    config = reward / "adapter_config.json"
    settings = json.loads(config.read_text()) | {"base_model_name_or_path": other_base(folder, tmp_path, 0.1)}
    config.write_text(json.dumps(settings))
    (reward / "head.safetensors").unlink()
    assert "was trained on other weights" in refusal(load, reward)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_of_its_base_does_not_matter(folder, reward, dtype):
    load_reward_model(load_base(folder, dtype, "cpu"), reward)


def test_an_adapter_that_does_not_say_what_it_was_trained_on_is_taken(folder, reward, tmp_path):
    file = reward / "adapter_model.safetensors"
    change(file, lambda tensors: tensors)  # saved again, without the stamp
    load_reward(other_base(folder, tmp_path, 1.0), reward)


def test_an_adapter_is_loaded_by_name_whatever_peft_makes_of_it(folder, reward, monkeypatch):
    """PEFT renames weights for some families, and then leaves what it does not find as it was initialised."""
    saved = load_file(reward / "adapter_model.safetensors")
    monkeypatch.setattr("peft.PeftModel.load_adapter", forgetful(PeftModel.load_adapter))
    base = load(Path(folder))
    load_reward_model(base, reward)
    found = {
        name.replace(".reward.", "."): weight for name, weight in base.network.named_parameters() if "lora_" in name
    }
    assert saved.keys() == {f"base_model.model.{name}" for name in found}
    assert all(torch.equal(weight, saved[f"base_model.model.{name}"]) for name, weight in found.items())


def forgetful(load_adapter):
    def load(self, *arguments, **options):
        result = load_adapter(self, *arguments, **options)
        for name, weight in self.named_parameters():
            if "lora_" in name:
                weight.data.normal_()
        return result

    return load


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(model):
    network = LlamaForCausalLM(LlamaConfig(**SMALL | {"vocab_size": 1000}))
    network.save_pretrained(model)
    assert "has embeddings for 1,000 tokens, but its tokenizer has 1,536" in refusal(load, model)


def test_a_network_that_sees_later_tokens_is_refused(model):
    config = BertGenerationConfig(**{name: size for name, size in SMALL.items() if name != "head_dim"})
    BertGenerationDecoder(config).save_pretrained(model)
    assert "is not a causal language model" in refusal(load, model)


def test_the_folder_of_a_run_is_not_a_model_and_the_model_in_it_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run" / "merged")
    assert f"name the model in it, {tmp_path / 'run' / 'merged'}" in refusal(load, tmp_path / "run")

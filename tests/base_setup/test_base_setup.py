import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from ppo_lm.base_setup import (
    EMBEDDED_MODEL,
    find_reward_folder,
    load_base,
    load_reward_model,
    make_lora_config,
    set_up_roles,
)
from ppo_lm.base_setup.base_setup import pick_device, pick_dtype
from ppo_lm.errors import ModelError
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.models import RewardModel
from ppo_lm.models.adapter_check import WEIGHTS_FILE
from ppo_lm.models.base_model import pick_pad_token_id
from ppo_lm.rewards import ClassifierReward, RewardContext
from tests.conftest import make_base


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nobody/no-such-model",
            "model 'nobody/no-such-model' cannot be reached: it is neither a local folder nor in the local cache",
        ),
        ("./no_such_folder", "there is no folder no_such_folder. Use a model folder"),
        ("missing.gguf", "there is no such file"),
    ],
)
def test_a_model_that_cannot_be_reached_is_reported_in_one_sentence_with_the_ways_out(name, message):
    with pytest.raises(ModelError, match=message) as caught:
        load_base(name)
    assert 'Use a model folder, a .gguf file, or "embedded"' in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelError, match="has no config.json"):
        load_base(str(tmp_path))
    shutil.copy(EMBEDDED_MODEL / "tokenizer.json", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_architecture"}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(str(tmp_path))
    shutil.copytree(EMBEDDED_MODEL, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded: there is no 'added_tokens'"):
        load_base(str(tmp_path))


def test_a_model_that_changes_its_logits_after_the_head_is_refused(tmp_path):
    from transformers import CohereConfig, CohereForCausalLM

    base = make_base()
    settings = dict(
        vocab_size=len(base.tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
    )
    CohereForCausalLM(CohereConfig(**settings, logit_scale=0.0625, bos_token_id=None)).save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="computes its logits with more than its output layer"):
        load_base(str(tmp_path), "float32", "cpu")


def test_a_soft_cap_is_found_in_bfloat16_where_rounding_is_coarse(tmp_path):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    base = make_base()
    settings = dict(
        vocab_size=len(base.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=8,
        pad_token_id=0,
    )
    network = Gemma2ForCausalLM(Gemma2Config(**settings, final_logit_softcapping=30.0))
    with torch.no_grad():
        network.get_input_embeddings().weight.normal_(
            std=1.0
        )  # tied to the head: some logits come near the cap, most do not
    network.save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="computes its logits with more than its output layer"):
        load_base(str(tmp_path), "bfloat16", "cpu")


@pytest.mark.fast
def test_pad_is_never_eos_and_the_tokenizer_is_left_as_it_is():
    tokenizer = make_base().tokenizer
    assert pick_pad_token_id(tokenizer, [1]) == tokenizer.pad_token_id == 0
    tokenizer.pad_token = tokenizer.eos_token
    assert pick_pad_token_id(tokenizer, [1]) == 0
    assert pick_pad_token_id(tokenizer, [1, 0, 2]) == 3
    assert tokenizer.pad_token == tokenizer.eos_token


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "tpu"])
def test_an_unavailable_device_is_reported_in_one_sentence(device):
    with pytest.raises(ModelError, match=f"device '{device}' is not available; this machine has .*cpu"):
        pick_device(device)


@pytest.mark.fast
def test_lora_targets_that_do_not_exist_or_are_shared_are_refused():
    for targets, message in (
        ("no_proj", r"cannot be used with this model .* it has .*q_proj"),
        ("q_proj,lm_head", "leave these two out"),
    ):
        with pytest.raises(ModelError, match=message):
            set_up_roles(make_base(), lora_r=4, lora_alpha=8, lora_dropout=0.0, lora_targets=targets)


def test_a_reward_model_of_another_base_is_refused(tmp_path):
    base = make_base(hidden_size=48)
    base.add_adapter("reward", make_lora_config(4, 8, 0.0))
    RewardModel(base).save(tmp_path)
    with pytest.raises(ModelError, match="was trained on other weights than those of model 'random'"):
        load_reward_model(make_base(), tmp_path)
    weights = load_file(tmp_path / WEIGHTS_FILE)
    save_file(weights, tmp_path / WEIGHTS_FILE)  # as other programs do, which say nothing of the base
    with pytest.raises(ModelError, match="cannot be loaded onto model 'random'; was it trained on another one"):
        load_reward_model(make_base(), tmp_path)


def test_auto_dtype():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert pick_dtype("auto", cpu) == torch.float32
    assert pick_dtype("auto", gpu) == torch.bfloat16
    assert pick_dtype("bfloat16", cpu) == torch.bfloat16


@pytest.mark.fast
def test_a_reward_folder_is_checked_before_any_model_loads(tmp_path):
    for other in ("mine.py:score", str(tmp_path / "none"), str(tmp_path)):
        assert find_reward_folder(other) is None
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(
        ModelError,
        match="has no adapter_model.safetensors, head.safetensors, normalisation.json, so it is not a reward model",
    ):
        find_reward_folder(str(tmp_path))
    run = tmp_path / "run"
    shutil.copytree(EMBEDDED_MODEL / "reward", run / "reward")
    assert find_reward_folder(str(run)) == find_reward_folder(str(run / "reward")) == run / "reward"
    assert find_reward_folder("embedded") == EMBEDDED_MODEL / "reward"


@pytest.mark.fast
def test_an_adapter_folder_is_its_base_with_the_adapter_merged_in(tmp_path):
    base = load_base("embedded", "float32", "cpu")
    torch.manual_seed(0)
    base.add_adapter("policy", make_lora_config(4, 8, 0.0))
    with torch.no_grad():
        for weight in base.role_parameters("policy"):
            weight.normal_(std=0.05)
    base.save_adapter("policy", tmp_path)
    ids, mask = torch.tensor([[5, 6, 7, 8]]), torch.ones(1, 4, dtype=torch.bool)
    with base.role("policy"):
        expected = base.hidden_states(ids, mask)
    merged = load_base(str(tmp_path), "float32", "cpu")
    assert merged.peft is None
    torch.testing.assert_close(merged.hidden_states(ids, mask), expected, rtol=0, atol=1e-4)
    assert not torch.allclose(base.hidden_states(ids, mask), expected)


@pytest.mark.parametrize(
    ("named", "message"),
    [("/nowhere/model", "model '/nowhere/model': there is no folder"), (None, "has no base model")],
)
def test_an_adapter_without_its_base_is_reported_in_one_sentence(tmp_path, named, message):
    shutil.copy(EMBEDDED_MODEL / "reward" / "adapter_model.safetensors", tmp_path)
    config = json.loads((EMBEDDED_MODEL / "reward" / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": named}))
    with pytest.raises(ModelError, match=message):
        load_base(str(tmp_path))


QUICK_START = """
import time
from config import PPOConfig
from ppo_trainer import PPOTrainer
started = time.monotonic()
try:
    trainer = PPOTrainer(PPOConfig(model_name="nobody/no-such-model"))
finally:
    print(time.monotonic() - started)
"""


def test_in_a_script_it_prints_one_sentence_and_no_traceback_within_15_seconds(checkout, online_environment):
    done = subprocess.run(
        [sys.executable, "-c", QUICK_START],
        cwd=checkout,
        env=online_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert float(done.stdout) < 15
    assert "Traceback" not in done.stderr
    sentences = [line for line in done.stderr.splitlines() if "nobody/no-such-model" in line]
    assert len(sentences) == 1 and sentences[0].startswith("error: model 'nobody/no-such-model' cannot be reached")


@pytest.mark.parametrize("kind", ["AutoModelForCausalLM", "AutoModelForSequenceClassification"])
def test_code_in_a_model_folder_is_never_run(tmp_path, kind):
    folder, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(EMBEDDED_MODEL, folder)
    (folder / "code.py").write_text(
        f"open({str(ran)!r}, 'w').close()\nfrom transformers import LlamaConfig, LlamaForCausalLM\nclass "
        "C(LlamaConfig): model_type = 'mine'\nclass M(LlamaForCausalLM): pass\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.C", kind: "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    context = RewardContext.on(make_base(), MemoryBudget(1024))
    load = {
        "AutoModelForCausalLM": lambda: load_base(str(folder), "float32", "cpu"),
        "AutoModelForSequenceClassification": lambda: ClassifierReward(str(folder), "judge").make_ready(context),
    }[kind]
    with pytest.raises(ModelError, match="cannot be loaded"):
        load()
    assert not ran.exists()


@pytest.mark.fast
def test_a_model_that_reads_padding_is_refused(tmp_path, monkeypatch):
    """GPT-2 whose learned positions count padding, as they would without position ids."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

    base = make_base()
    GPT2LMHeadModel(GPT2Config(vocab_size=1536, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)).save_pretrained(
        tmp_path
    )
    base.tokenizer.save_pretrained(tmp_path)
    assert load_base(str(tmp_path), "float32", "cpu").paths.why_not_padded is None
    forward = GPT2Model.forward
    monkeypatch.setattr(GPT2Model, "forward", lambda *inputs, position_ids=None, **more: forward(*inputs, **more))
    with pytest.raises(ModelError, match="gives other results for padded rows with position ids than"):
        load_base(str(tmp_path), "float32", "cpu")

"""A model that the user has loaded: the same numbers as by name, and what is refused."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ppo_lm import PPOConfig, PPOTrainer, SFTConfig, run_sft
from ppo_lm.base_setup import LoadedModel, load_base
from ppo_lm.errors import CheckpointError, ModelError
from tests.conftest import make_base

PROMPTS = [f"SUBREDDIT: r/advice TITLE: My boss number {n} TL;DR:" for n in range(8)]
RUN = dict(batch_size=4, lora_r=4, steps=2, eval_prompts=0, micro_batch_tokens=60, device="cpu", save_merged=False)


def by_length(completions):
    return [len(completion) / 10 for completion in completions]


@pytest.fixture
def loaded(folder):
    return dict(model=AutoModelForCausalLM.from_pretrained(folder), tokenizer=AutoTokenizer.from_pretrained(folder))


def train(config, **given):
    return PPOTrainer(config, reward=by_length, **given).train(PROMPTS, quiet=True)


def test_a_run_is_that_of_the_model_loaded_by_name_and_names_it(folder, loaded, tmp_path):
    train(PPOConfig(model_name=folder, output_dir=str(tmp_path / "named"), **RUN))
    train(PPOConfig(output_dir=str(tmp_path / "given"), **RUN), **loaded)
    named, given = (tmp_path / run / "adapter" / "adapter_model.safetensors" for run in ("named", "given"))
    assert named.read_bytes() == given.read_bytes()  # the stamp of the base in its metadata, too
    assert f"model_name: {folder}" in (tmp_path / "given" / "config.yaml").read_text()
    parameter = next(iter(loaded["model"].parameters()))
    assert not parameter.requires_grad and any(".lora_" in name for name, _ in loaded["model"].named_parameters())


def test_a_supervised_stage_is_too(folder, loaded, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "I moved out. TL;DR:", "completion": "I am upset."}\n' * 8)
    settings = dict(demonstrations=str(rows), lora_r=4, max_steps=2, held_out=0, batch_size=4, device="cpu")
    run_sft(SFTConfig(model_name=folder, output_dir=str(tmp_path / "named"), **settings), quiet=True)
    run_sft(SFTConfig(output_dir=str(tmp_path / "given"), **settings), quiet=True, **loaded)
    named, given = (load_file(tmp_path / run / "merged" / "model.safetensors") for run in ("named", "given"))
    assert named.keys() == given.keys() and all(torch.equal(named[name], given[name]) for name in named)


def test_a_resumed_run_takes_the_same_model_and_no_other(folder, loaded, tmp_path):
    config = PPOConfig(output_dir=str(tmp_path / "run"), **RUN)
    train(config, **loaded)
    longer = PPOConfig(output_dir=str(tmp_path / "run"), **{**RUN, "steps": 3})

    def resume(model):
        trainer = PPOTrainer(longer, reward=by_length, model=model, tokenizer=loaded["tokenizer"])
        trainer.train(PROMPTS, resume=tmp_path / "run", quiet=True)

    patched = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        patched.get_input_embeddings().weight.mul_(1.1)
    with pytest.raises(CheckpointError, match="the weights of the base model changed"):
        resume(patched)
    resume(AutoModelForCausalLM.from_pretrained(folder))


def test_it_keeps_its_dtype_and_device_unless_the_settings_name_others(loaded):
    given = LoadedModel.of(loaded["model"].to(torch.bfloat16), loaded["tokenizer"])
    assert load_base("m", loaded=given).dtype == torch.bfloat16
    base = load_base("m", dtype="float32", device="cpu", loaded=given)
    assert base.dtype == torch.float32 and base.network is loaded["model"] and base.name == "m"


@pytest.mark.fast
def test_a_model_without_a_name_gets_that_of_the_configuration():
    base = make_base()
    given = LoadedModel.of(base.network, base.tokenizer)
    assert given.in_place_of(PPOConfig(model_name="me/mine")).model_name == "me/mine"


@pytest.mark.fast
def test_a_run_says_which_base_it_names_for_a_model_without_a_name(folder, loaded):
    base = make_base()
    given = LoadedModel.of(base.network, base.tokenizer)
    note = "without a name, so what is saved names me/mine as its base"
    assert load_base("me/mine", loaded=given).description.endswith(f"; {note}")
    assert "name" not in load_base(folder, loaded=LoadedModel.of(**loaded)).description


@pytest.mark.fast
def test_what_is_no_model_or_has_adapters_or_no_tokenizer_is_refused():
    base = make_base()
    for given, message in (
        ((base.network, None), "tokenizer of type NoneType; give a transformers PreTrainedModel and its tokenizer"),
        (("gpt2", base.tokenizer), "model is of type str"),
    ):
        with pytest.raises(ModelError, match=message):
            LoadedModel.of(*given)
    trainer = dict(config=PPOConfig(**RUN), reward=by_length, model=base.network, tokenizer=base.tokenizer)
    PPOTrainer(**trainer)
    with pytest.raises(ModelError, match=r"has adapters, of peft or of an earlier trainer; load it again"):
        PPOTrainer(**trainer)


@pytest.mark.fast
def test_it_passes_the_same_checks_as_one_that_is_loaded_by_name():
    base = make_base()
    with torch.no_grad():
        base.network.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="is damaged: lm_head.weight holds NaN or infinity"):
        PPOTrainer(PPOConfig(**RUN), reward=by_length, model=base.network, tokenizer=base.tokenizer)

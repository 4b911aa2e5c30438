"""Runs on a quantised base: what they say, save, resume from and hand on."""

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.base_setup import load_adapter, load_base
from ppo_lm.cli.main import main
from ppo_lm.comparison import run_comparison
from ppo_lm.config import EvaluateConfig, ExportConfig
from ppo_lm.errors import CheckpointError, RunPaused
from ppo_lm.exporting import run_export
from ppo_lm.models import PolicyModel, RewardModel
from ppo_lm.run import save_adapter
from tests.ppo_trainer.conftest import PROMPTS, Fails, end_alike, length_reward, make, metrics
from tests.quantised.conftest import KINDS, add_random_adapter, needs_bitsandbytes, quantised_and_plain
from tests.sft.test_stage_resume import RUN, make_config

SETTINGS = dict(lora_r=4, steps=2, eval_every=0)
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
MASK = torch.ones_like(IDS).bool()


def policy_logprobs(base, role="policy"):
    with base.role(role):
        return base.logits(base.hidden_states(IDS, MASK)).log_softmax(dim=2).detach()


@pytest.fixture(scope="module", params=KINDS)
def trained(request, folder, tmp_path_factory):
    """(kind, the trainer of a run, its folder)."""
    out = tmp_path_factory.mktemp("quantised") / "run"
    trainer = make(folder, out, length_reward, quantise_base=request.param, save_merged=True, **SETTINGS)
    trainer.train(PROMPTS, quiet=True)
    return request.param, trainer, out


@pytest.mark.parametrize("kind", KINDS)
def test_a_paused_run_ends_bit_for_bit_like_one_that_was_not(folder, tmp_path, kind):
    settings = dict(quantise_base=kind, lora_r=4)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make(folder, whole, Fails(), **settings).train(PROMPTS, quiet=True)
    with pytest.raises(RunPaused, match="after step 2"):
        make(folder, parts, Fails(7), **settings).train(PROMPTS, quiet=True)
    make(folder, parts, Fails(), **settings).train(PROMPTS, resume=parts, quiet=True)
    end_alike(parts, whole)


def test_it_is_not_resumed_on_a_base_that_is_held_otherwise(folder, trained):
    out = trained[2]
    other = make(folder, out, length_reward, quantise_base="none", **{**SETTINGS, "steps": 3})
    with pytest.raises(CheckpointError, match="quantise_base"):
        other.train(PROMPTS, resume=out, quiet=True)


def test_a_run_trains_as_on_the_dequantised_weights(folder, trained, tmp_path):
    kind, _, out = trained
    plain = quantised_and_plain(folder, kind)[1]
    plain.network.save_pretrained(tmp_path / "plain")
    plain.tokenizer.save_pretrained(tmp_path / "plain")
    settings = dict(SETTINGS, engine="transformers")
    make(str(tmp_path / "plain"), tmp_path / "run", length_reward, **settings).train(PROMPTS, quiet=True)
    found, expected = (
        [{name: value for name, value in row.items() if isinstance(value, float)} for row in metrics(place)]
        for place in (out, tmp_path / "run")
    )
    assert len(found) == len(expected) and max(map(len, expected)) > 20
    for one, other in zip(found, expected):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    assert (out / "samples.jsonl").read_text() == (tmp_path / "run" / "samples.jsonl").read_text()


def test_the_headline_says_how_the_base_is_held_and_sampled(folder, tmp_path, capsys):
    make(folder, tmp_path / "run", length_reward, quantise_base="int8", **SETTINGS).train(PROMPTS)
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "% of them in int8" in said
    assert "sampled through transformers' own forward pass: its weights are held in int8" in said


def test_merged_and_export_are_the_policy_that_was_trained(folder, trained, tmp_path):
    kind, trainer, out = trained
    expected = policy_logprobs(trainer.base)
    run_export(ExportConfig(run=str(out), out=str(tmp_path / "export"), parts=["adapter", "merged", "value"]))
    for place in (out / "merged", tmp_path / "export" / "merged"):
        network = AutoModelForCausalLM.from_pretrained(place)
        assert network.dtype == torch.float32 and not getattr(network, "is_quantized", False)
        torch.testing.assert_close(network(input_ids=IDS).logits.log_softmax(dim=2), expected, rtol=1e-4, atol=1e-4)
    card = (tmp_path / "export" / "README.md").read_text()
    assert f"It was trained on this base in {kind}." in card and "--enable-lora" not in card
    assert re.search(rf"ppo-lm train .*--value_model value --quantise_base {kind}", card)


def test_evaluate_puts_the_adapter_onto_the_base_that_it_was_trained_on(folder, trained, tmp_path):
    kind, trainer, out = trained
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    kls = {}
    for each in ("none", kind):
        config = EvaluateConfig(
            models=[f"base={folder}", f"policy={out / 'adapter'}"],
            prompts=str(prompts),
            judge="length_target(words=4)",
            max_new_tokens=8,
            quantise_base=each,
            output_dir=str(tmp_path / each),
        )
        run_comparison(config, quiet=True)
        kls[each] = json.loads((tmp_path / each / "results.json").read_text())
    base = load_base(folder, quantisation=kind)
    load_adapter(base, "policy", out / "adapter")
    torch.testing.assert_close(policy_logprobs(base), policy_logprobs(trainer.base))
    assert kls["none"] != kls[kind]  # against the plain base, and against the quantised one


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize(
    ("dequantize", "tolerance"), [(True, 1e-4), (False, 0.5)]
)  # bitsandbytes computes in fewer bits
def test_cards_load_the_adapters_without_ppo_lm(kind, dequantize, tolerance, tmp_path):
    """bitsandbytes computes in fewer bits, unless its layers are replaced, as the cards say."""
    base = load_base("embedded", "float32", "cpu", quantisation=kind)
    for role in ("policy", "reward"):
        add_random_adapter(base, role, size=0.02)
    reward = RewardModel(base)
    save_adapter(PolicyModel(base), tmp_path / "policy")
    reward.save(tmp_path / "reward")
    cards = {"policy": tmp_path / "policy", "reward": tmp_path / "reward" / "classifier"}
    expected = {"policy": policy_logprobs(base), "reward": reward.scores(IDS, MASK).detach()}
    for role, place in cards.items():
        lines = re.search(r"```python\n(.*?)```", (place / "README.md").read_text(), re.DOTALL)[1]
        names = {"folder": str(place)}
        exec(lines.replace("model = ", "base = base.dequantize()\nmodel = ") if dequantize else lines, names)
        with torch.no_grad():
            if role == "policy":
                found = names["model"].eval()(input_ids=IDS).logits.log_softmax(dim=2)
            else:
                found = names["scores"](IDS, MASK)
        assert 0 < float((found - expected[role]).abs().max()) < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_all_stages_hand_on_to_each_other(folder, tmp_path, kind, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    for stage in ("sft", "reward", "value"):
        settings = dict(lora_r=4, quantise_base=kind)
        RUN[stage](make_config(stage, folder, tmp_path, tmp_path / stage, **settings), quiet=True)
    models = ["--reward", str(tmp_path / "reward"), "--value_model", str(tmp_path / "value")]
    starts = {folder: models, str(tmp_path / "sft" / "adapter"): ["--reward", "length_target(words=4)"]}
    small = ["--lora_r=4", "--batch_size=4", "--steps=1", "--eval_prompts=2", "--mini_batches=2", "--ppo_epochs=1"]
    for number, (start, parts) in enumerate(starts.items()):
        place = ["--model_name", start, "--prompts", str(prompts), "--output_dir", str(tmp_path / f"ppo-{number}")]
        main(["train", "--quantise_base", kind, *small, *place, *parts])
        assert "was trained on this base" not in capsys.readouterr().out  # as they are all on the same one
    card = (tmp_path / "ppo-1" / "adapter" / "README.md").read_text()
    assert f"trained on weights in {kind} that transformers cannot load in the same way" in card


def test_a_reward_model_that_was_trained_on_the_plain_base_is_pointed_out(folder, tmp_path, capsys):
    RUN["reward"](make_config("reward", folder, tmp_path, tmp_path / "reward", lora_r=4), quiet=True)
    settings = dict(SETTINGS, quantise_base="int8", reward=[str(tmp_path / "reward")])
    PPOTrainer(PPOConfig(model_name=folder, batch_size=4, **settings)).train(PROMPTS)
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "was trained on this base without quantisation, and is used on it in int8" in said

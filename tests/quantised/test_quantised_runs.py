"""Runs on a quantised base: what they say, save, resume from and hand on."""

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from ppo_lm.base_setup import load_adapter, load_base
from ppo_lm.cli.main import main
from ppo_lm.comparison import run_evaluation
from ppo_lm.config import EvaluateConfig, ExportConfig
from ppo_lm.errors import CheckpointError, RunPaused
from ppo_lm.exporting import run_export
from tests.ppo_trainer.conftest import PROMPTS, Fails, end_alike, length_reward, make
from tests.quantised.conftest import KINDS, needs_bitsandbytes, quantised_and_plain
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
    kind, _, out = trained
    other = make(folder, out, length_reward, quantise_base="none", **SETTINGS)
    with pytest.raises(CheckpointError, match="quantise_base"):
        other.train(PROMPTS, resume=out, quiet=True)


def test_a_run_trains_as_on_the_dequantised_weights(folder, trained, tmp_path):
    kind, trainer, out = trained
    plain = quantised_and_plain(folder, kind)[1]
    plain.network.save_pretrained(tmp_path / "plain")
    plain.tokenizer.save_pretrained(tmp_path / "plain")
    settings = dict(SETTINGS, engine="transformers")
    make(str(tmp_path / "plain"), tmp_path / "run", length_reward, **settings).train(PROMPTS, quiet=True)
    found, expected = (
        [json.loads(line) for line in (place / "metrics.jsonl").open()] for place in (out, tmp_path / "run")
    )
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for one, other in zip(found, expected):
        for name in ("score", "kl", "policy_loss", "value_loss", "entropy"):
            assert one.get(name) == pytest.approx(other.get(name), rel=1e-4, abs=1e-6), name


def test_the_headline_says_how_the_base_is_held_and_sampled(folder, tmp_path, capsys):
    make(folder, tmp_path / "run", length_reward, quantise_base="int8", **SETTINGS).train(PROMPTS)
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "% of them in int8" in said
    assert "sampled through transformers' own forward pass: its weights are held in int8" in said


def test_merged_and_export_are_the_policy_that_was_trained(folder, trained, tmp_path):
    kind, trainer, out = trained
    expected = policy_logprobs(trainer.base)
    run_export(ExportConfig(run=str(out), out=str(tmp_path / "export"), parts=["adapter", "merged"]))
    for place in (out / "merged", tmp_path / "export" / "merged"):
        network = AutoModelForCausalLM.from_pretrained(place)
        assert network.dtype == torch.float32 and not getattr(network, "is_quantized", False)
        torch.testing.assert_close(network(input_ids=IDS).logits.log_softmax(dim=2), expected, rtol=1e-4, atol=1e-4)
    card = (tmp_path / "export" / "README.md").read_text()
    assert f"It was trained on this base in {kind}." in card and "--enable-lora" not in card
    assert f"--quantise_base {kind}" not in card  # the value model is not among the parts


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
        run_evaluation(config, quiet=True)
        kls[each] = json.loads((tmp_path / each / "results.json").read_text())
    base = load_base(folder, quantisation=kind)
    load_adapter(base, "policy", out / "adapter")
    torch.testing.assert_close(policy_logprobs(base), policy_logprobs(trainer.base))
    assert kls["none"] != kls[kind]  # against the plain base, and against the quantised one


@needs_bitsandbytes
def test_the_card_of_the_adapter_loads_it_without_ppo_lm(trained):
    kind, trainer, out = trained
    card = (out / "adapter" / "README.md").read_text()
    first = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    expected = policy_logprobs(trainer.base)
    for lines, tolerance in (
        (first, 0.3),  # bitsandbytes computes in fewer bits
        (first.replace("model = ", "base = base.dequantize()\nmodel = "), 1e-4),
    ):
        names = {"folder": str(out / "adapter")}
        exec(lines, names)
        with torch.no_grad():
            found = names["model"].eval()(input_ids=IDS).logits.log_softmax(dim=2)
        assert float((found - expected).abs().max()) < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_all_stages_hand_on_to_each_other(folder, tmp_path, kind, capsys):
    options = dict(lora_r=4, quantise_base=kind)
    for stage in ("sft", "reward", "value"):
        RUN[stage](make_config(stage, folder, tmp_path, tmp_path / stage, **options), quiet=True)
    for start in (folder, tmp_path / "sft" / "adapter"):
        extra = [f"--reward={tmp_path / 'reward'}", f"--value_model={tmp_path / 'value'}"] if start == folder else []
        (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
        out = tmp_path / f"ppo {len(extra)}"
        common = ["--batch_size=4", "--steps=1", "--eval_prompts=2", "--mini_batches=2", "--ppo_epochs=1"]
        rewards = extra or ["--reward=length_target(words=4)"]
        main(
            ["train", f"--model_name={start}", f"--quantise_base={kind}", "--lora_r=4", *common, *rewards]
            + [f"--prompts={tmp_path / 'prompts.txt'}", f"--output_dir={out}"]
        )
        said = capsys.readouterr().out
        assert "was trained on this base" not in said  # all of them are held alike
    card = (out / "adapter" / "README.md").read_text()
    assert f"trained on weights in {kind} that transformers cannot load in the same way" in card


def test_a_reward_model_on_another_base_is_pointed_out(folder, tmp_path, capsys):
    RUN["reward"](make_config("reward", folder, tmp_path, tmp_path / "reward", lora_r=4), quiet=True)
    make(folder, tmp_path / "run", None, quantise_base="int8", reward=str(tmp_path / "reward"), **SETTINGS).train(
        PROMPTS
    )
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "was trained on this base without quantisation, and is used on it in int8" in said

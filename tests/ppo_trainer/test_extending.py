"""A run that is finished, paused or killed: it can be extended, and its policy used."""

import json
import signal

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ppo_lm.cli.main import main
from ppo_lm.comparison import run_comparison
from ppo_lm.config import EvaluateConfig
from ppo_lm.errors import CheckpointError, ConfigError, RunPaused
from ppo_lm.run import find_policy
from tests.conftest import in_a_process
from tests.ppo_trainer.conftest import PROMPTS, WEIGHTS, Signals, make, metrics, train


def length(prompts, completions):
    return [len(c) / 10 for c in completions]


def steps_of(out):
    return [row for row in metrics(out) if "evaluation" not in row]


@pytest.mark.parametrize("lora_r", [4, 0])
def test_with_a_constant_schedule_an_extended_run_is_bit_equal_to_one_planned_so(folder, tmp_path, lora_r):
    settings = dict(lr_schedule="constant", lora_r=lora_r)
    make(folder, tmp_path / "whole", length, steps=4, **settings).train(PROMPTS)
    make(folder, tmp_path / "parts", length, steps=2, **settings).train(PROMPTS)
    make(folder, tmp_path / "parts", length, steps=4, **settings).train(PROMPTS, resume=tmp_path / "parts")
    weights = WEIGHTS if lora_r else "merged/model.safetensors"
    assert (tmp_path / "parts" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_from_the_extension_on_the_learning_rate_is_that_of_the_longer_run(folder, tmp_path):
    settings = dict(lr_schedule="linear", lora_r=4)
    make(folder, tmp_path / "run", length, steps=2, **settings).train(PROMPTS)
    make(folder, tmp_path / "run", length, steps=8, **settings).train(PROMPTS, resume=tmp_path / "run")
    rates = [row["learning_rate"] for row in steps_of(tmp_path / "run")]  # those of the next step
    assert rates[:2] == pytest.approx([0.005, 0.0])
    assert rates[2:] == pytest.approx([0.01 * (1 - step / 8) for step in range(3, 9)])


def test_extending_by_command(folder, tmp_path, capsys):
    prompts, run = tmp_path / "prompts.txt", tmp_path / "run"
    prompts.write_text("\n".join(PROMPTS))
    options = dict(model_name=folder, prompts=prompts, reward="length_target(words=3)", steps=1, batch_size=4)
    options |= dict(eval_prompts=0, lora_r=4, save_merged="false", output_dir=run)
    main(["train", *(text for name, value in options.items() for text in (f"--{name}", str(value)))])
    assert (
        f"to extend the run, raise steps (--steps N) and resume it:\n"
        f"    ppo-lm train --resume {run} --steps N\n(checkpoints/, " in capsys.readouterr().out
    )
    with pytest.raises(SystemExit) as caught:
        main(["train", "--resume", str(run)])
    assert caught.value.code == 1
    said = "is finished: it ended after step 1; to extend it, raise steps (--steps N) and resume it"
    assert said in capsys.readouterr().err
    main(["train", "--resume", str(run), "--steps", "2", "--save_every", "1"])
    said = "steps was 1 and is 2: from step 2 on, the learning rate is that of a run of 2 steps"
    assert said in capsys.readouterr().out
    main(["train", "--resume", str(run), "--steps", "3", "--kl_coef", "0.2", "--allow_changes"])
    assert "continuing with a change: kl_coef was 0.1 and is 0.2" in capsys.readouterr().out
    assert [row["step"] for row in steps_of(run)] == [1, 2, 3]


def test_a_finished_run_is_not_run_again(folder, tmp_path):
    make(folder, tmp_path / "run", length, steps=1).train(PROMPTS)
    with pytest.raises(CheckpointError, match="is finished"):
        make(folder, tmp_path / "run", length, steps=1).train(PROMPTS, resume=tmp_path / "run")


def compare(folder, run, out):
    prompts = out / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS[:4]))
    config = EvaluateConfig(
        models=[f"base={folder}", f"ppo={run}"],
        prompts=str(prompts),
        max_new_tokens=4,
        judge="length_target(words=3)",
        output_dir=str(out / "evaluation"),
    )
    return run_comparison(config)


def paused(folder, run, at=8, **settings):
    """A run that is asked to stop at the reward's call number `at`; with 8, in step 4. Returns its trainer."""
    trainer = make(folder, run, Signals(at, signal.SIGTERM), lora_r=settings.pop("lora_r", 4), **settings)
    with pytest.raises(RunPaused):
        trainer.train(PROMPTS)
    return trainer


def test_a_paused_run_has_the_policy_that_it_had_in_evaluate_and_in_plain_peft(folder, tmp_path, capsys):
    run = tmp_path / "run"
    policy = paused(folder, run).roles.policy
    found = find_policy(run)
    compare(folder, run, tmp_path)
    assert f"ppo: the run in {run} is not finished; this is its policy after step 4" in capsys.readouterr().out
    ids = torch.tensor([[5, 6, 7, 8]])
    with policy.base.role("policy"), torch.no_grad():
        expected = policy.base.network(ids).logits
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), found.folder)
    assert torch.allclose(plain(ids).logits, expected, atol=1e-5)
    assert not torch.allclose(AutoModelForCausalLM.from_pretrained(folder)(ids).logits, expected, atol=1e-3)


def test_a_killed_run_has_the_policy_of_its_last_checkpoint(folder, tmp_path):
    killed = in_a_process(train, folder, tmp_path / "killed", Signals(8, signal.SIGKILL), lora_r=4, save_every=1)
    assert killed == -signal.SIGKILL
    found = find_policy(tmp_path / "killed")
    assert found.folder.parent.name == "step-000003" and found.description.endswith("this is its policy after step 3")
    paused(folder, tmp_path / "paused", at=7)  # in step 3
    one, other = (find_policy(tmp_path / name).folder for name in ("killed", "paused"))
    assert (one / "adapter_model.safetensors").read_bytes() == (other / "adapter_model.safetensors").read_bytes()


def test_an_unfinished_run_that_trains_all_weights_says_that_it_has_no_policy_yet(folder, tmp_path):
    paused(folder, tmp_path / "run", lora_r=0)
    with pytest.raises(ConfigError, match="is not finished, and step-000004 has no adapter .*: it trains all weights"):
        compare(folder, tmp_path / "run", tmp_path)


def test_a_finished_run_is_evaluated_by_the_name_of_its_folder(folder, tmp_path, capsys):
    make(folder, tmp_path / "run", length, steps=2, lora_r=0).train(PROMPTS)
    assert find_policy(tmp_path / "run").folder == tmp_path / "run" / "merged"
    compare(folder, tmp_path / "run", tmp_path)
    said = capsys.readouterr().out
    assert f"ppo: the policy of the run in {tmp_path / 'run'} after step 2, its last" in said
    assert "ppo: trained with max_new_tokens 10, but evaluated with 4; --max_new_tokens 10" in said

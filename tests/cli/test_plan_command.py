"""`ppo-lm plan` from the command line."""

import json
import subprocess
import sys

import pytest
import yaml
from transformers import AutoTokenizer, GPT2Config

from ppo_lm.cli.main import main
from ppo_lm.config import PlanConfig
from ppo_lm.errors import ConfigError

ON_H100 = ["--hardware=h100", "--batch_size=64", "--max_new_tokens=128"]


def plan(capsys, *arguments: str) -> dict:
    capsys.readouterr()
    main(["plan", *arguments, "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.mark.fast
def test_the_file_of_a_run_is_planned_as_it_is(tmp_path, capsys):
    file = tmp_path / "train.yaml"
    settings = {"model_name": "embedded", "prompts": "embedded", "reward": "embedded", "steps": 7, "batch_size": 16}
    file.write_text(yaml.safe_dump(settings))
    found = plan(capsys, "--config", str(file), "--device=cpu")
    assert found["command"] == f"ppo-lm train --config {file} --device cpu"
    assert found["run_seconds"] == pytest.approx(7 * found["step_seconds"])
    assert found["seconds"]["reward"]["total"] > 0
    assert 40 < found["tokens"]["prompt"] < 80  # measured: those of the embedded posts
    assert found["fits"] and found["measured"]


@pytest.mark.fast
def test_the_table_says_what_is_not_measured(capsys):
    main(["plan", "--model_name=Qwen/Qwen3-4B", *ON_H100, "--devices=8"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "NOT MEASURED" in shown and "NVIDIA's data sheets" in shown
    assert "bottleneck: " in shown and "layout: " in shown
    assert "command: torchrun --nproc-per-node 8 -m ppo_lm train --model_name Qwen/Qwen3-4B" in shown


@pytest.mark.fast
def test_a_run_that_does_not_fit_gets_no_command(capsys):
    arguments = ["--model_name=Qwen/Qwen3-8B", "--lora_r=0", *ON_H100]
    found = plan(capsys, *arguments)
    assert found["command"] is None and not found["fits"] and found["notes"]
    main(["plan", *arguments])
    shown = capsys.readouterr().out
    assert "does not fit" in shown and "command:" not in shown


@pytest.mark.fast
def test_a_run_without_our_own_passes_is_said_to_take_more(tmp_path, capsys):
    main(["plan", "--model_name=Qwen/Qwen3-4B", *ON_H100, "--fast=false"])
    assert "will be higher than this" in capsys.readouterr().out
    GPT2Config(n_embd=32, n_layer=2, n_head=4, architectures=["GPT2LMHeadModel"]).save_pretrained(tmp_path)
    assert "gpt2 networks" in plan(capsys, f"--model_name={tmp_path}", *ON_H100)["why_not_accelerated"]
    assert plan(capsys, "--model_name=Qwen/Qwen3-4B", *ON_H100)["why_not_accelerated"] is None


@pytest.mark.fast
def test_lengths_are_given_or_assumed(capsys):
    given = plan(capsys, "--model_name=Qwen/Qwen3-4B", *ON_H100, "--prompt_tokens=90", "--response_tokens=60")
    assert given["tokens"] == {"prompt": 90, "response": 60}
    assert plan(capsys, "--model_name=Qwen/Qwen3-4B", *ON_H100)["tokens"] == {"prompt": 256, "response": 128}
    cut = plan(capsys, "--model_name=Qwen/Qwen3-4B", *ON_H100, "--max_prompt_tokens=77")
    assert cut["tokens"]["prompt"] == 77
    with pytest.raises(ConfigError, match="response_tokens is 61 but max_new_tokens is 60"):
        PlanConfig(max_new_tokens=60, response_tokens=61)


@pytest.mark.fast
def test_prompts_are_tokenised_for_a_model_in_a_folder(folder, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("one two three\none\n")
    found = plan(capsys, f"--model_name={folder}", f"--prompts={tmp_path / 'prompts.txt'}", "--device=cpu")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = [len(tokenizer(text).input_ids) for text in ("one two three", "one")]
    assert found["tokens"]["prompt"] == round(sum(expected) / 2)


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "ppo_lm", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_peak_memory_of_a_run_is_as_planned(tmp_path):
    settings = ["--steps=2", "--batch_size=16", "--ppo_epochs=1", "--eval_prompts=0", "--save_merged=false"]
    planned = json.loads(run("plan", *settings, "--json"))["memory_bytes"]["peak"]
    run("train", *settings, f"--output_dir={tmp_path / 'run'}")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    measured = max(json.loads(line)["peak_memory_mib"] for line in lines if "peak_memory_mib" in line) * 2**20
    assert planned == pytest.approx(measured, rel=0.15)

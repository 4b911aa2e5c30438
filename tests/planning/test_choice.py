"""Which layout is chosen where it is clear, and the command that runs it."""

import shlex

import pytest
from transformers import LlamaConfig

from ppo_lm.cli.commands import parser_of
from ppo_lm.config import PlanConfig, PPOConfig
from ppo_lm.config.fields import fields_of
from ppo_lm.planning import Layout, choose, command_for

pytestmark = pytest.mark.fast

BATCH = {"batch_size": 64, "max_new_tokens": 256}


def parsed(command: str) -> dict:
    """The options that `ppo-lm train` finds in a command."""
    words = shlex.split(command)
    arguments = words[words.index("train") + 1 :]
    return parser_of("train", "ppo-lm").parse(arguments)


def big_llama(folder) -> str:
    """The folder of a configuration with 70B weights."""
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=8192,
        intermediate_size=28_672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        pad_token_id=0,
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    return str(folder)


def test_all_weights_of_8b_do_not_fit_into_one_device_and_an_adapter_does(make_job, h100s):
    choice = choose(make_job(model_name="Qwen/Qwen3-8B", lora_r=0, **BATCH), h100s())
    assert not choice.plan.fits
    assert "does not fit" in choice.reason
    assert any("it would fit with lora_r: 16 (" in note for note in choice.notes)
    assert choose(make_job(model_name="Qwen/Qwen3-8B", **BATCH), h100s()).plan.fits


def test_an_adapter_of_06b_takes_all_devices_of_a_host(make_job, h100s):
    choice = choose(make_job(**BATCH), h100s(8))
    assert choice.plan.layout == Layout(8)
    command = command_for(choice.plan, [], {"model_name": "Qwen/Qwen3-0.6B", "batch_size": 64, "devices": 8})
    assert command.startswith("torchrun --nproc-per-node 8 -m ppo_lm train ")
    assert parsed(command) == {"model_name": "Qwen/Qwen3-0.6B", "batch_size": 64, "prompts": "PROMPTS.jsonl"}


def test_there_are_no_more_processes_than_responses(make_job, h100s):
    assert choose(make_job(batch_size=4, max_new_tokens=32), h100s(8)).plan.layout == Layout(4)


def test_a_base_that_is_too_big_for_a_device_is_sharded_and_samples_remotely(make_job, h100s, tmp_path):
    job = make_job(model_name=big_llama(tmp_path), **BATCH)
    choice = choose(job, h100s(8, hosts=2))
    layout = choice.plan.layout
    assert layout.sharded and layout.trainers + layout.samplers == 16 and layout.samplers >= 4
    part, two_layers = job.sizes.weights / layout.trainers, 2 * job.sizes.layer_weights / 80
    assert choice.plan.memory["frozen base"] == pytest.approx(2 * (part + two_layers))
    command = command_for(choice.plan, ["my.yaml"], {})
    assert (
        f"--nnodes 2 --rdzv-backend c10d --rdzv-endpoint FIRST_HOST:29500 --nproc-per-node {layout.trainers // 2} "
        in (command)
    )
    if {"shard_base", "engine_urls"} <= fields_of(PPOConfig).keys():
        found = parsed(command)
        assert found["shard_base"] is True and found["engine"] == "vllm" and found["config"] == ["my.yaml"]


def test_what_does_not_fit_says_how_many_devices_would_do(make_job, h100s, tmp_path):
    choice = choose(make_job(model_name=big_llama(tmp_path), **BATCH), h100s(2))
    assert not choice.plan.fits
    assert any("it would fit on " in note and "devices" in note for note in choice.notes)


def test_processes_of_a_cpu_share_its_memory(make_job, cpu):
    job = make_job(batch_size=8, max_new_tokens=16)
    assert choose(job, cpu).plan.layout == Layout(1)
    assert not choose(job, cpu._replace(memory=2**30)).plan.fits


@pytest.mark.parametrize(
    "options",
    [
        {"gamma": 1.0, "learning_rate": 1e-5, "fast": False, "top_k": 20, "value_model": None},
        {"reward": ["mine.py:score", "sentiment"], "reward_weights": [1, 0.5], "output_dir": "runs/a b"},
        {"prompts": "my prompts.txt", "model_name": "./a'b"},
    ],
    ids=str,
)
def test_every_option_of_the_run_is_in_the_command(options, make_job, h100s):
    job = make_job(**{"prompts": options.get("prompts"), **BATCH})
    command = command_for(
        choose(job, h100s()).plan, [], options | {"hardware": "h100", "prompt_tokens": 200, "hosts": 1}
    )
    expected = options if "prompts" in options else options | {"prompts": "PROMPTS.jsonl"}
    assert parsed(command) == expected


def test_the_settings_of_a_run_are_settings_of_its_plan():
    own = fields_of(PlanConfig).keys() - fields_of(PPOConfig).keys()
    assert fields_of(PPOConfig).keys() < fields_of(PlanConfig).keys()
    assert own == {"hardware", "devices", "hosts", "prompt_tokens", "response_tokens"}

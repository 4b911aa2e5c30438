"""What a run records about the prompts that it trained on, and how it is found from a model."""

import json

import pytest
from safetensors.torch import save_file

from ppo_lm.run import TrainingPrompts, count_seen, trace
from ppo_lm.run.trained_prompts import prompt_key, read_record, record_prompts

pytestmark = pytest.mark.fast


def make_run(folder, base, prompts):
    folder.mkdir()
    (folder / "config.yaml").write_text("")
    record_prompts(folder, TrainingPrompts(str(base), prompts))
    (folder / "merged").mkdir()
    return folder / "merged"


def make_adapter(folder, base):
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base)}))
    save_file({}, folder / "adapter_model.safetensors")
    return folder


def test_a_model_is_traced_back_through_the_runs_that_trained_it(tmp_path):
    sft = make_run(tmp_path / "sft", "org/base", ["one", "two"])
    make_run(tmp_path / "ppo", sft, ["three"])
    adapter = make_adapter(tmp_path / "ppo" / "checkpoints" / "step-000100" / "adapter", sft)
    lineage = trace(str(adapter))
    assert list(lineage.runs) == [tmp_path / "ppo", tmp_path / "sft"]
    assert (lineage.gaps, lineage.root) == ([], "org/base")
    asked = ["one", "two", "three", "four"]
    assert [count_seen(asked, keys) for keys in lineage.runs.values()] == [1, 2]


def test_what_is_not_recorded_is_a_gap(tmp_path):
    sft = make_run(tmp_path / "sft", "org/base", ["one"])
    elsewhere = make_adapter(tmp_path / "downloaded", sft)
    assert trace(str(elsewhere)).gaps == [str(elsewhere)] and list(trace(str(elsewhere)).runs) == [tmp_path / "sft"]
    (tmp_path / "sft" / "trained_prompts.json").write_text("{}")
    assert trace(str(sft)) == ({}, [str(sft)], str(sft))
    assert trace("org/base") == ({}, [], "org/base")


def test_a_run_that_is_resumed_with_other_prompts_keeps_those_that_it_had(tmp_path):
    for prompts in (["one", "two"], ["two", "three"]):
        record_prompts(tmp_path, TrainingPrompts("base", prompts))
    assert read_record(tmp_path) == ("base", {prompt_key(prompt) for prompt in ("one", "two", "three")})


def test_a_prompt_is_the_same_as_a_text_and_as_a_conversation_of_one_turn():
    assert prompt_key("Hello ") == prompt_key("Hello") == prompt_key([{"role": "user", "content": "Hello"}])
    assert prompt_key("Hello") != prompt_key([{"role": "system", "content": "A"}, {"role": "user", "content": "Hello"}])

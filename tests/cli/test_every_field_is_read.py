"""No setting is dead: a run of each command reads every field of its configuration."""

import dataclasses
import importlib
import json
import sys

import pytest
from rich.console import Console

from ppo_lm.cli.main import main
from ppo_lm.collection.pairs import load_pairs
from ppo_lm.config import CollectConfig, EvaluateConfig, PPOConfig, RewardConfig, SFTConfig, ValueConfig

STOPPING = ["--stop_metric=loss", "--stop_mode=min", "--stop_patience=9"]
SUPERVISED = ["--lora_r=4", "--held_out=4", "--batch_size=4", "--max_steps=1", *STOPPING]
COMMANDS = {
    "sft": (SFTConfig, [*SUPERVISED, "--demonstrations={data}", "--rouge_samples=1", "--max_new_tokens=4"]),
    "reward": (RewardConfig, [*SUPERVISED, "--preferences={data}", "--demonstrations={data}"]),
    "value": (ValueConfig, [*SUPERVISED, "--demonstrations={data}", "--reward={reward}"]),
    "train": (
        PPOConfig,
        [
            "--lora_r=4",
            "--prompts={data}",
            "--reward={reward}",
            "--value_target=returns",
            "--old_logprobs=recomputed",
            "--importance_cap=2",
            "--steps=2",
            "--batch_size=4",
            "--eval_prompts=4",
            "--stop_metric=score",
            "--stop_patience=9",
        ],
    ),
    "evaluate": (
        EvaluateConfig,
        ["--models={model}", "--models=column:completion", "--prompts={data}", "--judge=embedded", "--eval_prompts=4"],
    ),
}
REWARD = """
def score(completions, calls=[0]):
    calls[0] += 1
    return [float(len(text)) if calls[0] != 3 else float("nan") for text in completions]  # step 1 is skipped
"""


@pytest.fixture
def places(folder, tmp_path) -> dict[str, str]:
    """A model, data that every command takes, and a reward."""
    rows = [
        {
            "prompt": f"SUBREDDIT: r/advice TITLE: My boss number {n} TL;DR:",
            **dict.fromkeys(("completion", "chosen", "completion_a"), f"I quit {n}."),
            **dict.fromkeys(("rejected", "completion_b"), f"No {n}."),
        }
        for n in range(12)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "reward.py").write_text(REWARD)
    return {"model": folder, "data": str(tmp_path / "data.jsonl"), "reward": f"{tmp_path / 'reward.py'}:score"}


def recorded(config: type, read: set[str]) -> type:
    """`config`, whose objects note in `read` each field that is read; not by what checks or writes all fields."""

    class Recorded(config):
        def __getattribute__(self, name):
            reader = sys._getframe(1).f_globals["__name__"]
            if reader != "dataclasses" and not reader.startswith("ppo_lm.config"):
                read.add("reward" if name == "rewards" else name)
            return super().__getattribute__(name)

    return Recorded


def unread(config: type, read: set[str]) -> set[str]:
    return {field.name for field in dataclasses.fields(config)} - read


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_is_read(command, places, tmp_path, monkeypatch):
    config, options = COMMANDS[command]
    read: set[str] = set()
    monkeypatch.setattr(importlib.import_module(f"ppo_lm.cli.{command}"), config.__name__, recorded(config, read))
    model = [] if command == "evaluate" else [f"--model_name={places['model']}"]
    options = [option.format(**places) for option in options]
    main([command, *model, *options, "--device=cpu", f"--output_dir={tmp_path / 'run'}"])
    assert unread(config, read) == set()


def test_every_field_is_read_where_people_judge(places, tmp_path, monkeypatch):
    def leave(console, text, **_):
        if "Open http" in text:
            raise KeyboardInterrupt

    monkeypatch.setattr(Console, "print", leave)
    read: set[str] = set()
    config = recorded(CollectConfig, read)
    monkeypatch.setattr("ppo_lm.cli.collect.CollectConfig", config)
    main(["collect", f"--pairs={places['data']}", "--port=0", f"--output_dir={tmp_path / 'run'}"])
    pairs, _ = load_pairs(config(prompts=places["data"], model_name=places["model"], max_new_tokens=4, device="cpu"))
    pairs.pair(0)
    assert unread(CollectConfig, read) == set()

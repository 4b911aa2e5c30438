"""Policies that are evaluated on responses of another length than they were trained to write."""

import dataclasses

import pytest

from ppo_lm.comparison.contestants import Contestant
from ppo_lm.comparison.response_lengths import notes_on_lengths
from ppo_lm.config import EvaluateConfig, PPOConfig, SFTConfig
from ppo_lm.config.files import dump_settings

pytestmark = pytest.mark.fast


def make_run(folder, config):
    (folder / "merged").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_settings(config))
    return str(folder / "merged")


def test_a_policy_that_was_trained_with_another_limit_is_named(tmp_path):
    ppo = PPOConfig()
    sources = {
        "short": make_run(tmp_path / "short", ppo),
        "same": make_run(tmp_path / "same", dataclasses.replace(ppo, max_new_tokens=64)),
        "sft": make_run(tmp_path / "sft", SFTConfig(max_new_tokens=32)),
        "base": "org/base",
        "human": "column:human",
    }
    checkpoint = tmp_path / "short" / "checkpoints" / "step-000002" / "adapter"
    checkpoint.mkdir(parents=True)
    contestants = [Contestant(name, source) for name, source in {**sources, "paused": str(checkpoint)}.items()]
    advice = "--max_new_tokens 10 evaluates what it was trained to write"
    assert notes_on_lengths(contestants, EvaluateConfig(max_new_tokens=64)) == [
        f"{name}: trained with max_new_tokens 10, but evaluated with 64; {advice}" for name in ("short", "paused")
    ]
    (tmp_path / "short" / "config.yaml").write_text("[")
    assert notes_on_lengths(contestants, EvaluateConfig(max_new_tokens=64)) == []


def test_a_policy_whose_responses_ended_otherwise_is_named(tmp_path):
    run = make_run(tmp_path / "run", PPOConfig(max_new_tokens=64, min_new_tokens=4, stop_strings=["\n", "Q:"]))
    found = notes_on_lengths([Contestant("it", run)], EvaluateConfig(min_new_tokens=2))
    advice = "evaluates what it was trained to write"
    assert found == [
        f"it: trained with min_new_tokens 4, but evaluated with 2; --min_new_tokens 4 {advice}",
        'it: trained with stop_strings \'["\\n", "Q:"]\', but evaluated with null; '
        f'--stop_strings \'["\\n", "Q:"]\' {advice}',
    ]
    same = EvaluateConfig(min_new_tokens=4, stop_strings=["\n", "Q:"])
    assert notes_on_lengths([Contestant("it", run)], same) == []

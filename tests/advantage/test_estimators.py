"""Estimators by name: what each makes, what it needs, what does not go with it."""

import pytest
import torch

from ppo_lm.advantage import ESTIMATORS, Estimator, GAEAdvantage, find_estimator, length_adaptive_lam
from ppo_lm.config import PPOConfig
from ppo_lm.errors import ConfigError
from tests.conftest import make_pairs

pytestmark = pytest.mark.fast

MADE = ("td_errors", "advantages", "reward_to_go", "returns")


def estimate(pairs=None, **settings):
    """The pairs with what the estimator adds, from rewards alone, or also values if it needs them; and its config."""
    config = PPOConfig(**{**dict(gamma=0.9, lam=0.8), **settings})
    estimator = find_estimator(config)
    pairs = pairs or make_pairs(rows=4, holes=True)
    pairs = pairs.with_columns(**dict.fromkeys(MADE), **({} if estimator.needs_values else {"values": None}))
    return estimator.add_advantages(pairs, config), config


def gae(pairs, config, lam):
    return GAEAdvantage().compute_gae_advantages(pairs, config.gamma, lam)


def added(pairs):
    return {name for name in MADE if getattr(pairs, name) is not None}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"td_errors", "advantages", "reward_to_go"}),
        ({"value_target": "returns"}, set(MADE)),
        ({"advantage_estimator": "rloo", "responses_per_prompt": 2}, {"advantages"}),
        ({"advantage_estimator": "group", "responses_per_prompt": 2}, {"advantages"}),
    ],
    ids=str,
)
def test_an_estimator_makes_what_is_wanted_and_nothing_else(settings, expected):
    pairs, _ = estimate(**settings)
    assert added(pairs) == expected
    for name in expected:
        column = getattr(pairs, name)
        assert torch.all(column[~pairs.action_mask] == 0) and column.abs().max() > 0


@pytest.mark.parametrize(
    ("settings", "runs"),
    [
        ({}, 1),
        ({"value_target": "returns"}, 1),
        ({"value_target": "returns", "value_lam": 0.8}, 1),
        ({"value_target": "returns", "value_lam": 0.5}, 2),
        ({"value_target": "returns", "value_lam": 0.8, "lam_length_scale": 0.5}, 2),
        ({"value_target": "returns", "lam_length_scale": 0.5}, 1),
    ],
    ids=str,
)
def test_gae_runs_twice_only_for_another_lambda(settings, runs, monkeypatch):
    compute, seen = GAEAdvantage.compute_gae_advantages, []
    monkeypatch.setattr(
        GAEAdvantage, "compute_gae_advantages", lambda *arguments: (seen.append(1), compute(*arguments))[1]
    )
    pairs, config = estimate(**settings)
    assert len(seen) == runs
    scale = config.lam_length_scale
    lam = length_adaptive_lam(pairs.lengths, scale) if scale else config.lam
    assert torch.equal(pairs.advantages, gae(pairs, config, lam))
    if pairs.returns is not None:
        own = gae(pairs, config, lam if config.value_lam is None else config.value_lam)
        assert torch.equal(pairs.returns, torch.where(pairs.action_mask, own + pairs.values, 0.0))


def test_an_entry_says_what_it_needs():
    needs = {
        name: (found.needs_values, found.needs_group, found.whitens)
        for name in ESTIMATORS.names
        if (found := ESTIMATORS.find(name))
    }
    assert needs == {
        "gae": (True, False, True),
        "rloo": (False, True, False),
        "group": (False, True, False),
    }


def test_all_conflicts_with_an_estimator_are_reported_at_once():
    settings = dict(
        value_model="embedded", value_warmup_steps=1, value_target="returns", value_loss="mine", lam_length_scale=0.1
    )
    with pytest.raises(ConfigError) as caught:
        find_estimator(PPOConfig(advantage_estimator="rloo", **settings))
    assert caught.value.problems == [
        "advantage_estimator is rloo but responses_per_prompt is 1; it compares the responses to one prompt, so set at "
        "least 2",
        *[
            f"advantage_estimator is rloo, which has no value model, but {setting}"
            for setting in (
                "value_model is embedded; set it to null",
                "value_warmup_steps is 1; set it to 0",
                "value_target is returns; set it to reward_to_go",
                "value_loss is mine; set it to clipped",
                "lam_length_scale is 0.1; set it to 0.0",
            )
        ],
    ]
    assert find_estimator(PPOConfig(**settings)) is ESTIMATORS.find("gae")


def test_your_own_estimator_must_be_an_estimator(tmp_path):
    (tmp_path / "mine.py").write_text("from ppo_lm.advantage import Estimator\ndef f(): ...\nF = Estimator(f)\n")
    assert isinstance(find_estimator(PPOConfig(advantage_estimator=f"{tmp_path}/mine.py:F")), Estimator)
    with pytest.raises(ConfigError, match=r"mine.py:f' is of type function; it must be an instance of .*Estimator"):
        find_estimator(PPOConfig(advantage_estimator=f"{tmp_path}/mine.py:f"))
    with pytest.raises(ConfigError, match="must be one of gae, rloo, group; did you mean 'gae'"):
        find_estimator(PPOConfig(advantage_estimator="gea"))

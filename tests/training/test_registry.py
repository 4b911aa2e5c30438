"""Losses by name."""

import pytest

from ppo_lm.config import PPOConfig
from ppo_lm.errors import ConfigError
from ppo_lm.training import POLICY_LOSSES, VALUE_LOSSES, find_losses

pytestmark = pytest.mark.fast


def test_the_defaults_are_found_by_name():
    assert find_losses(PPOConfig()) == (POLICY_LOSSES.find("clip"), VALUE_LOSSES.find("clipped"))


def test_both_names_that_cannot_be_found_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        find_losses(PPOConfig(policy_loss="clp", value_loss="mse"))
    assert caught.value.problems == [
        "policy_loss is 'clp'; it must be one of clip; did you mean 'clip'?",
        "value_loss is 'mse'; it must be one of clipped; or give your own as module:name or path/file.py:name",
    ]

"""The losses that a configuration can name."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ppo_lm.config import PPOConfig
from ppo_lm.errors import ConfigError
from ppo_lm.plugins import Registry
from ppo_lm.training.losses import NewNumbers, PolicyLoss, TokenLoss, ValueLoss
from ppo_lm.training.policy_loss import policy_loss
from ppo_lm.training.value_loss import value_loss
from ppo_lm.types import SAPairs

POLICY_LOSSES: Registry[PolicyLoss] = Registry("policy_loss", PolicyLoss)
VALUE_LOSSES: Registry[ValueLoss] = Registry("value_loss", ValueLoss)


class Losses(NamedTuple):
    """The losses that a step trains with."""

    policy: PolicyLoss
    value: ValueLoss


def find_losses(config: PPOConfig) -> Losses:
    """The losses that the configuration names. Raises one `ConfigError` for all that cannot be found."""
    found, problems = [], []
    for registry, name in ((POLICY_LOSSES, config.policy_loss), (VALUE_LOSSES, config.value_loss)):
        try:
            found.append(registry.find(name))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Losses(*found)


def clip(sa_pairs: SAPairs, new: NewNumbers, config: PPOConfig) -> TokenLoss:
    """PPO's clipped surrogate."""
    return policy_loss(
        new.logprobs,
        sa_pairs.old_logprobs,
        sa_pairs.require("advantages"),
        sa_pairs.action_mask,
        config.clip_epsilon,
        clip_epsilon_high=config.clip_epsilon_high,
        dual_clip=config.dual_clip,
    )


def clipped(sa_pairs: SAPairs, new_values: torch.Tensor, config: PPOConfig) -> TokenLoss:
    """The squared error, clipped around the old values."""
    return value_loss(
        new_values,
        sa_pairs.require("values"),
        sa_pairs.require(config.value_target),
        sa_pairs.action_mask,
        config.value_clip,
    )


POLICY_LOSSES.register("clip")(PolicyLoss(clip))
VALUE_LOSSES.register("clipped")(ValueLoss(clipped))

"""The inputs and outputs of a loss.

A loss is a pure function of a micro-batch that returns a number per token. The model trainer adds what all losses
share: the mean over tokens or sequences, independent of micro-batches; importance weights; the KL in the loss; the
entropy bonus.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ppo_lm.config import PPOConfig
from ppo_lm.types import SAPairs


class TokenLoss(NamedTuple):
    """The loss of each token, and metrics to log by name, as means over tokens. Values where `action_mask` is False are
    ignored."""

    loss: torch.Tensor  # (B, A)
    metrics: dict[str, torch.Tensor]  # (B, A) each, numbers or bool


class NewNumbers(NamedTuple):
    """The current policy's numbers for the sampled tokens of a micro-batch, with gradients."""

    logprobs: torch.Tensor  # (B, A) nats, 0 where masked
    entropies: torch.Tensor | None  # (B, A) nats; None unless the loss needs them, or `entropy_coef` is set


@dataclass(frozen=True)
class PolicyLoss:
    """A policy loss and what it needs.

    Example::

        def reinforce(sa_pairs, new, config):
            return TokenLoss(-sa_pairs.require("advantages") * new.logprobs, {})

        REINFORCE = PolicyLoss(reinforce)  # --policy_loss my_file.py:REINFORCE
    """

    compute: Callable[[SAPairs, NewNumbers, PPOConfig], TokenLoss]
    needs_entropies: bool = False


@dataclass(frozen=True)
class ValueLoss:
    """A value loss: a function of the pairs, of which it may read the old `values` and the column
    `config.value_target`, and of the new values, (B, A)."""

    compute: Callable[[SAPairs, torch.Tensor, PPOConfig], TokenLoss]

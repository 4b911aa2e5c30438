"""Supervised fine-tuning: the first stage, from demonstrations."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ppo_lm.base_setup import minimise
from ppo_lm.data.encoding import pad
from ppo_lm.models.policy_model import PolicyModel
from ppo_lm.ops import action_logprobs


@dataclass(frozen=True)
class Demonstration:
    """Token ids of a prompt and of a completion of it (with its EOS, if it ended)."""

    prompt_ids: list[int]
    completion_ids: list[int]


def completion_loss(policy: PolicyModel, batch: list[Demonstration]) -> torch.Tensor:
    """Mean negative log-likelihood, in nats, of the completions' tokens only. Returns ()."""
    base = policy.base
    ids, mask = pad([d.prompt_ids + d.completion_ids for d in batch], base.pad_token_id, side="right", device=base.device)
    _, is_prompt = pad([d.prompt_ids for d in batch], 0, side="right", device=base.device)
    is_action = mask.clone()
    is_action[:, : is_prompt.shape[1]] &= ~is_prompt
    with base.role(policy.role):
        hidden = base.hidden_states(ids, mask)
    actions = is_action[:, 1:]
    return -action_logprobs(hidden[:, :-1], base.logits, ids[:, 1:], actions).sum() / actions.sum()


def train_sft(policy: PolicyModel, demonstrations: list[Demonstration], *, seed: int = 0, **settings) -> None:
    """Minimise `completion_loss`. `settings` are those of `base_setup.minimise`: learning_rate, epochs, batch_size, max_grad_norm, log."""
    lengths = [len(d.prompt_ids) + len(d.completion_ids) for d in demonstrations]
    rng = random.Random(f"sft {seed}")
    minimise(lambda batch: completion_loss(policy, batch), demonstrations, lengths, policy.parameters(), rng=rng, **settings)

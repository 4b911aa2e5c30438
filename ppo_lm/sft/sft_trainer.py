"""Supervised fine-tuning: the first stage, from demonstrations."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ppo_lm.base_setup import Optimiser
from ppo_lm.data.encoding import length_bucketed_batches, pad
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


def train_sft(
    policy: PolicyModel,
    demonstrations: list[Demonstration],
    *,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    max_grad_norm: float = 1.0,
    log: Callable[[int, int, float], None] = lambda step, total, loss: None,
) -> None:
    """Minimise `completion_loss` over length-bucketed batches with a cosine schedule and 5% warm-up; `log(step, total, loss)`."""
    total = epochs * math.ceil(len(demonstrations) / batch_size)
    optimiser = Optimiser(
        policy.parameters(), learning_rate, schedule="cosine", total_steps=total, max_grad_norm=max_grad_norm, warmup_steps=total // 20
    )
    lengths = [len(d.prompt_ids) + len(d.completion_ids) for d in demonstrations]
    rng, step = random.Random(f"sft {seed}"), 0
    for _ in range(epochs):
        for rows in length_bucketed_batches(lengths, batch_size, rng):
            loss = completion_loss(policy, [demonstrations[row] for row in rows])
            loss.backward()
            optimiser.step()
            step += 1
            log(step, total, loss.item())

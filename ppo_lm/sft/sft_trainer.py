"""Supervised fine-tuning: the first stage, from demonstrations."""

from __future__ import annotations

import random

import torch

from ppo_lm.data.encoded import EncodedDemonstration
from ppo_lm.data.encoding import pad
from ppo_lm.distributed import as_often, processes
from ppo_lm.models.policy_model import PolicyModel
from ppo_lm.ops import action_logprobs
from ppo_lm.optimisation import LoopSettings, Optimiser, Progress, minimise


def sum_completion_losses(policy: PolicyModel, batch: list[EncodedDemonstration]) -> torch.Tensor:
    """Negative log-likelihood, in nats, summed over the completions' tokens; prompts and padding contribute nothing.
    Returns ()."""
    base = policy.base
    ids, mask = pad(
        [d.prompt_ids + d.completion_ids for d in batch], base.pad_token_id, side="right", device=base.device
    )
    _, is_prompt = pad([d.prompt_ids for d in batch], 0, side="right", device=base.device)
    is_action = mask.clone()
    is_action[:, : is_prompt.shape[1]] &= ~is_prompt
    with base.role(policy.role):
        hidden = base.hidden_states(ids, mask)
    return -action_logprobs(hidden[:, :-1], base.output_layer(), ids[:, 1:], is_action[:, 1:]).sum()


def train_sft(
    policy: PolicyModel,
    demonstrations: list[EncodedDemonstration],
    settings: LoopSettings,
    *,
    seed: int = 0,
    optimiser: Optimiser | None = None,
    progress: Progress | None = None,
) -> None:
    """Minimise the mean loss over completion tokens, with dropout. `optimiser`: None creates one. `progress`: see
    `optimisation.minimise`."""
    lengths, weights = [len(d) for d in demonstrations], [len(d.completion_ids) for d in demonstrations]
    with policy.base.dropout():
        minimise(
            lambda batch: sum_completion_losses(policy, batch),
            demonstrations,
            lengths,
            weights,
            optimiser or settings.make_optimiser(policy.parameters(), len(demonstrations)),
            settings,
            rng=random.Random(f"sft {seed}"),
            progress=progress,
            in_step=policy.base.is_sharded,
        )


@torch.no_grad()
def completion_loss(policy: PolicyModel, demonstrations: list[EncodedDemonstration], batch_size: int = 32) -> float:
    """Mean negative log-likelihood per completion token, in nats, without dropout."""
    team = processes()
    share = team.share([len(d) for d in demonstrations])
    own = [demonstrations[row] for row in share.own]

    def measure() -> float:
        batches = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
        losses = [float(sum_completion_losses(policy, batch)) * counts for batch, counts in as_often(batches)]
        return sum(losses) * share.counts

    loss = torch.tensor(team.together(measure, policy.base.is_sharded), dtype=torch.float64)
    team.add_up([loss])
    return float(loss) / sum(len(d.completion_ids) for d in demonstrations)

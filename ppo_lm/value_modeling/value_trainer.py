"""Value pretraining: predict a completion's score from its beginning.

VC-PPO (2503.01491) pretrains the value model on samples of the initial policy. Here the demonstrations that the SFT
model was fine-tuned on stand in for its samples, so nothing has to be sampled.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ppo_lm.advantage import ReturnCalculator
from ppo_lm.data.encoding import pad
from ppo_lm.distributed import as_often, processes
from ppo_lm.models import BaseModel, ValueModel
from ppo_lm.ops import explained_variance, masked_sum
from ppo_lm.optimisation import LoopSettings, Optimiser, Progress, minimise
from ppo_lm.token_attribution import attribute_scores, build_sa_pairs
from ppo_lm.training import value_loss
from ppo_lm.types import SAPairs


@dataclass(frozen=True)
class ScoredDemonstration:
    """Token ids of a prompt and of its completion, EOS included, and the completion's score."""

    prompt_ids: list[int]
    completion_ids: list[int]
    score: float

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


def make_pairs(base: BaseModel, batch: list[ScoredDemonstration], gamma: float) -> SAPairs:
    """Demonstrations as rollouts of a policy equal to its reference: the score on the last token, no KL, and
    `reward_to_go`."""
    prompt_ids, prompt_mask = pad([d.prompt_ids for d in batch], base.pad_token_id, side="left", device=base.device)
    action_ids, action_mask = pad(
        [d.completion_ids for d in batch], base.pad_token_id, side="right", device=base.device
    )
    scores = torch.tensor([d.score for d in batch], device=base.device)
    ended = torch.ones(len(batch), dtype=torch.bool, device=base.device)
    pairs = build_sa_pairs(
        prompt_ids, prompt_mask, action_ids, action_mask, ended, torch.zeros(action_ids.shape, device=base.device)
    )
    pairs = pairs.with_columns(scores=scores, rewards=attribute_scores(scores, action_mask))
    return ReturnCalculator().add_reward_to_go(pairs, gamma)


def sum_value_losses(model: ValueModel, batch: list[ScoredDemonstration], gamma: float) -> torch.Tensor:
    """½ (V − G)², summed over the completions' tokens. Returns ()."""
    pairs = make_pairs(model.base, batch, gamma)
    targets = pairs.require("reward_to_go")
    return masked_sum(value_loss(model.values(pairs), targets, targets, pairs.action_mask).loss, pairs.action_mask)


def train_value_model(
    model: ValueModel,
    demonstrations: list[ScoredDemonstration],
    settings: LoopSettings,
    *,
    gamma: float = 1.0,
    seed: int = 0,
    optimiser: Optimiser | None = None,
    progress: Progress | None = None,
) -> None:
    """Minimise the mean loss over completion tokens, without dropout, as in PPO. `optimiser`: None makes one.
    `progress`: see `optimisation.minimise`."""
    lengths, weights = [len(d) for d in demonstrations], [len(d.completion_ids) for d in demonstrations]
    minimise(
        lambda batch: sum_value_losses(model, batch, gamma),
        demonstrations,
        lengths,
        weights,
        optimiser or settings.make_optimiser(model.parameters(), len(demonstrations)),
        settings,
        rng=random.Random(f"value {seed}"),
        progress=progress,
        in_step=model.base.is_sharded,
    )


@torch.no_grad()
def measure_values(
    model: ValueModel, demonstrations: list[ScoredDemonstration], gamma: float = 1.0, batch_size: int = 32
) -> dict[str, float]:
    """`value_loss` and, for two demonstrations or more, `explained_variance`, 1 − Var(G − V) / Var(G), over completion
    tokens; empty if there are no demonstrations."""
    if not demonstrations:
        return {}
    team = processes()
    share = team.share([len(d) for d in demonstrations])
    own = [demonstrations[row] for row in share.own]

    def predict() -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        for some, counts in as_often([own[start : start + batch_size] for start in range(0, len(own), batch_size)]):
            pairs = make_pairs(model.base, some, gamma)
            both = torch.stack([model.values(pairs), pairs.require("reward_to_go")])
            found += [row[:, mask].cpu() for row, mask in zip(both.unbind(dim=1), pairs.action_mask) if counts]
        return found

    predicted = team.together(predict, model.base.is_sharded)
    value, target = torch.cat(team.gather_items(share, predicted), dim=1)
    measured = {"value_loss": float(((value - target) ** 2).mean() / 2)}
    if len(demonstrations) > 1:
        everywhere = torch.ones_like(value, dtype=torch.bool)
        measured["explained_variance"] = explained_variance(value, target, everywhere)
    return measured

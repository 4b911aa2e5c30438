"""Reward modelling: the second stage, from preferences."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from ppo_lm.data.encoding import pad
from ppo_lm.distributed import as_often, processes
from ppo_lm.errors import ModelError
from ppo_lm.models import RewardModel
from ppo_lm.optimisation import LoopSettings, Optimiser, Progress, minimise


@dataclass(frozen=True)
class Comparison:
    """Token ids of a prompt with the chosen and with the rejected completion."""

    chosen_ids: list[int]
    rejected_ids: list[int]


def score_sequences(model: RewardModel, sequences: list[list[int]]) -> torch.Tensor:
    """Scores of token sequences, right-padded. Returns (B,) fp32."""
    return model.scores(*pad(sequences, model.base.pad_token_id, side="right", device=model.base.device))


def sum_preference_losses(model: RewardModel, batch: list[Comparison]) -> torch.Tensor:
    """Bradley–Terry: −log sigmoid(r(chosen) − r(rejected)), summed ("Learning to summarize from human feedback",
    2009.01325). Returns ()."""
    scores = score_sequences(model, [c.chosen_ids for c in batch] + [c.rejected_ids for c in batch])
    return -logsigmoid(scores[: len(batch)] - scores[len(batch) :]).sum()


def train_reward_model(
    model: RewardModel,
    comparisons: list[Comparison],
    settings: LoopSettings,
    *,
    seed: int = 0,
    optimiser: Optimiser | None = None,
    progress: Progress | None = None,
) -> None:
    """Minimise the mean loss over comparisons, with dropout. `optimiser`: None creates one. `progress`: see
    `optimisation.minimise`."""
    lengths = [max(len(c.chosen_ids), len(c.rejected_ids)) for c in comparisons]
    with model.base.dropout():
        minimise(
            lambda batch: sum_preference_losses(model, batch),
            comparisons,
            lengths,
            [1] * len(comparisons),
            optimiser or settings.make_optimiser(model.parameters(), len(comparisons)),
            settings,
            rng=random.Random(f"reward {seed}"),
            progress=progress,
            in_step=model.base.is_sharded,
        )


@torch.no_grad()
def score_all(model: RewardModel, sequences: list[list[int]], batch_size: int = 64) -> torch.Tensor:
    """Scores of any number of sequences, in their order. Returns (N,) fp32 on the CPU."""
    team = processes()
    share = team.share([len(sequence) for sequence in sequences])
    own = [sequences[row] for row in share.own]

    def score() -> torch.Tensor:
        order = sorted(range(len(own)), key=lambda i: len(own[i]))
        scores = torch.zeros(len(own))
        for rows, _ in as_often([order[start : start + batch_size] for start in range(0, len(order), batch_size)]):
            scores[rows] = score_sequences(model, [own[row] for row in rows]).cpu()
        return scores

    return team.gather_rows(share, team.together(score, model.base.is_sharded))


def normalise(model: RewardModel, reference_sequences: list[list[int]]) -> None:
    """Set `model.mean` and `model.std` so that reference completions score 0 on average, with standard deviation 1
    (2403.17031).

    Raises `ModelError` if all get the same score.
    """
    model.mean, model.std = 0.0, 1.0
    scores = score_all(model, reference_sequences)
    if not scores.std() > 0:
        raise ModelError(
            f"the reward model gives all {len(scores)} reference completions the same score, so it has learnt nothing; "
            "train it longer, or check the data"
        )
    model.mean, model.std = float(scores.mean()), float(scores.std())

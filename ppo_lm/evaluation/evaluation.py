"""How good a policy is on prompts it never trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

import torch

from ppo_lm.data import PromptSet
from ppo_lm.types import SAPairs


class Generator(Protocol):
    def generate_sequences(self, prompts: list[str]) -> tuple[SAPairs, list[str]]: ...


class Scorer(Protocol):
    def compute_rewards(self, prompts, generated_texts, columns, sa_pairs) -> torch.Tensor: ...


@dataclass(frozen=True)
class Evaluation:
    """Means over the held-out prompts; `scores`, `monitors` and `texts` hold each prompt's own.

    kl is in nats a sequence, between the policy and the reference as they were sampled (None: not meant to be read); length in
    tokens; ended is a share.
    """

    score: float
    kl: float | None
    length: float
    ended: float
    monitor: float | None
    scores: list[float]
    monitors: list[float] | None
    texts: list[str]
    step: int = 0

    def means(self) -> dict[str, float]:
        """The numbers without the lists."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, (int, float)) and name != "step"}


def evaluate(generator: Generator, scorer: Scorer, monitor: Callable | None, prompts: PromptSet, batch_size: int) -> Evaluation:
    """Sample one response a prompt with `generator`, in order, and score it."""
    scores, monitors, texts, kl, length, ended = [], [], [], [], [], []
    for start in range(0, len(prompts), batch_size):
        batch = prompts.select(list(range(start, min(start + batch_size, len(prompts)))))
        sa_pairs, generated = generator.generate_sequences(batch.prompts)
        scores += scorer.compute_rewards(batch.prompts, generated, batch.columns, sa_pairs).tolist()
        texts += generated
        if monitor is not None:
            monitors += monitor(batch.prompts, generated, {**batch.columns, "terminated": sa_pairs.terminated.tolist()})
        kl += (sa_pairs.old_logprobs - sa_pairs.require("ref_logprobs")).sum(dim=1).tolist()
        length += sa_pairs.lengths.tolist()
        ended += sa_pairs.terminated.tolist()
    return Evaluation(
        _mean(scores), _mean(kl), _mean(length), _mean(ended), _mean(monitors) if monitors else None, scores, monitors or None, texts
    )


def _mean(numbers: list) -> float:
    return sum(numbers) / len(numbers)

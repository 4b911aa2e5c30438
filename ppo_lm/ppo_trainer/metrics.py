"""The metrics of a step. Every mean is over sampled tokens or over sequences, never over padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ppo_lm.ops import explained_variance, masked_mean
from ppo_lm.rewards import Scores
from ppo_lm.tracking import Floor, PhaseClock, peak_memory
from ppo_lm.training import importance_weights
from ppo_lm.types import SAPairs


def describe_rollout(sa_pairs: SAPairs) -> dict[str, float]:
    """Metrics of a batch before it is trained on. KL is in nats per sequence; entropy, in nats per token, is that of
    the sampling distributions; length counts sampled tokens. Metrics whose column is missing are left out: the entropy
    with some engines, the explained variance without a value model."""
    mask = sa_pairs.action_mask
    described = {
        "kl": float(torch.where(mask, sa_pairs.require("kl"), 0.0).sum(dim=1).mean()),
        "length": float(sa_pairs.lengths.float().mean()),
        "ended": float(sa_pairs.terminated.float().mean()),
    }
    if sa_pairs.entropies is not None:
        described["entropy"] = float(masked_mean(sa_pairs.entropies, mask))
    if sa_pairs.values is not None and sa_pairs.reward_to_go is not None:
        described["explained_variance"] = explained_variance(sa_pairs.values, sa_pairs.reward_to_go, mask)
    return described


def describe_importance(sa_pairs: SAPairs, floor: float, cap: float) -> dict[str, float]:
    """Mean, minimum and maximum over tokens of π_old / π_sampler, before the loss truncates or masks these weights; and
    the share of tokens for which it does, those outside [floor, cap]. A cap of 0 stands for no weights, and no
    share."""
    mask = sa_pairs.action_mask
    weights = importance_weights(sa_pairs.old_logprobs, sa_pairs.require("sampler_logprobs"), mask)[mask]
    described = {
        "importance_mean": float(weights.mean()),
        "importance_min": float(weights.min()),
        "importance_max": float(weights.max()),
    }
    if cap:
        described["importance_clip_fraction"] = float(((weights < floor) | (weights > cap)).float().mean())
    return described


def describe_texts(texts: Sequence[str]) -> dict[str, float]:
    """The share of responses without any text."""
    return {"empty": sum(not text.strip() for text in texts) / len(texts)}


def describe_cost(clock: PhaseClock, sa_pairs: SAPairs, floor: Floor, all_updates: bool = True) -> dict[str, float]:
    """The seconds of the step and of its phases, each phase's lower bound as a share of its seconds (left out for
    training unless `all_updates` were made), sampled tokens per second of the whole step and of sampling alone, and the
    peak memory so far, in MiB."""
    seconds, tokens = sum(clock.seconds.values()), len(sa_pairs)
    phases = {f"seconds/{phase}": spent for phase, spent in clock.seconds.items()}
    shares = {
        f"floor/{phase}": least / clock.seconds[phase]
        for phase, least in floor.seconds(sa_pairs).items()
        if least and (all_updates or phase != "training")
    }
    rates = {"tokens_per_second": tokens / seconds, "sampled_tokens_per_second": tokens / clock.seconds["sampling"]}
    return {"seconds": seconds, **phases, **shares, **rates, "peak_memory_mib": peak_memory(clock.device)}


def describe_scores(scores: Scores) -> dict[str, float]:
    """Mean and standard deviation of the scores before normalising, and as `reward/NAME` the mean of each part over the
    responses that it scored (NaN: no opinion)."""
    known = {name: values[~values.isnan()] for name, values in scores.parts.items()}
    means = {f"reward/{name}": float(values.mean()) for name, values in known.items() if len(values)}
    return {"score": float(scores.plain.mean()), "score_std": float(scores.plain.std(correction=0)), **means}

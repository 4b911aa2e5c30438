"""What a step is judged by; every mean is over real tokens or over sequences, never over padding."""

from __future__ import annotations

import torch

from ppo_lm.ops import masked_mean
from ppo_lm.rewards import Scores
from ppo_lm.tracking import Floor, PhaseClock, peak_memory
from ppo_lm.types import SAPairs


def describe_rollout(sa_pairs: SAPairs) -> dict[str, float]:
    """Numbers of a batch before it is trained on. KL is in nats a sequence; entropy, in nats a token, is that of the
    distributions that were sampled from."""
    mask = sa_pairs.action_mask
    kl = sa_pairs.require("kl")
    return {
        "kl": float(torch.where(mask, kl, 0.0).sum(dim=1).mean()),
        "entropy": float(masked_mean(sa_pairs.require("entropies"), mask)),
        "length": float(sa_pairs.lengths.float().mean()),
        "ended": float(sa_pairs.terminated.float().mean()),
        "explained_variance": explained_variance(sa_pairs.require("values"), sa_pairs.require("reward_to_go"), mask),
    }


def describe_cost(clock: PhaseClock, sa_pairs: SAPairs, floor: Floor, all_updates: bool = True) -> dict[str, float]:
    """Seconds of the step and of its phases, how much of these the machine could not have done without, sampled tokens
    a second of the whole step and of sampling alone, and the peak of memory so far, in MiB. Without `all_updates`, what
    training could not have done without is not said."""
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
    """Mean and standard deviation of the scores before normalising, and the mean of every part, over the responses it
    has an opinion on, as `reward/NAME`."""
    known = {name: values[~values.isnan()] for name, values in scores.parts.items()}
    means = {f"reward/{name}": float(values.mean()) for name, values in known.items() if len(values)}
    return {"score": float(scores.plain.mean()), "score_std": float(scores.plain.std(correction=0)), **means}


def explained_variance(values: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> float:
    """1 − Var(target − value) / Var(target) over real tokens; 0 when the targets do not vary. All (B, A)."""
    if int(mask.sum()) < 2:
        return 0.0
    variance = targets[mask].var()
    return float(1 - (targets - values)[mask].var() / variance) if variance > 0 else 0.0

"""How far each sampled token has moved from the reference."""

from __future__ import annotations

import torch

from ppo_lm.types import SAPairs


class KLDivergence:
    """Per-token estimates of KL(π_old ‖ π_ref) from the sampled token alone (Schulman, "Approximating KL divergence",
    2020).

    With d = log π_old(a|s) − log π_ref(a|s): k1 = d (unbiased), k2 = d²/2, k3 = exp(−d) − 1 + d (unbiased and never
    negative).
    """

    def __init__(self, estimator: str = "k1"):
        if estimator not in ("k1", "k2", "k3"):
            raise ValueError(f"estimator is {estimator!r}; it must be k1, k2 or k3")
        self.estimator = estimator

    def compute_kl(self, logprobs: torch.Tensor, ref_logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, A) nats, 0 where masked, whatever the inputs hold there."""
        difference = torch.where(mask, logprobs - ref_logprobs, 0.0)
        if self.estimator == "k1":
            return difference
        if self.estimator == "k2":
            return difference**2 / 2
        return torch.expm1(-difference) + difference

    def add_kl_to_sa_pairs(self, sa_pairs: SAPairs) -> SAPairs:
        """Add the column `kl`."""
        kl = self.compute_kl(sa_pairs.old_logprobs, sa_pairs.require("ref_logprobs"), sa_pairs.action_mask)
        return sa_pairs.with_columns(kl=kl)

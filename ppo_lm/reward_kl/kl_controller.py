"""The weight of the KL penalty, fixed or adaptive."""

from __future__ import annotations

from collections.abc import Mapping

ERROR_CLIP = 0.2


class KLController:
    """Multiplies `coef` by 1 + clip(KL/target − 1, ±0.2) · n/horizon after n responses ("Fine-tuning language models
    from human preferences", 1909.08593, section 2.2; there coef starts at 0.15, with target 6 nats and horizon 10,000).
    With target 0 it stays fixed."""

    def __init__(self, coef: float, target: float = 0.0, horizon: int = 10_000):
        self.coef, self.target, self.horizon = coef, target, horizon

    def update(self, kl: float, responses: int) -> None:
        """`kl`: the mean over the `responses` that the policy was trained on, in nats per response."""
        if self.target:
            error = min(max(kl / self.target - 1, -ERROR_CLIP), ERROR_CLIP)
            self.coef *= 1 + error * responses / self.horizon

    def state_dict(self) -> dict[str, float]:
        """The weight."""
        return {"coef": self.coef}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore what `state_dict` returned."""
        self.coef = state["coef"]

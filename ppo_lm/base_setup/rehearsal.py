"""One pass forward and back before any training, so that a network that cannot be trained is refused at once."""

from __future__ import annotations

import torch

from ppo_lm.errors import ModelError, first_line
from ppo_lm.fast.trial import is_refusal, trial_ids
from ppo_lm.models import BaseModel

TOKENS = 9


def rehearse_training(base: BaseModel, role: str | None) -> None:
    """Raise `ModelError` if the weights of `role` (None: all weights) cannot be trained. Changes nothing."""
    weights = [weight for weight in base.role_parameters(role) if weight.requires_grad]
    ids = trial_ids(base.network, TOKENS)[None]
    what = "all weights (lora_r 0)" if role is None else "LoRA"
    try:
        with base.role(role):
            hidden = base.hidden_states(ids, torch.ones_like(ids, dtype=torch.bool))
            logits = base.logits(hidden[0]).float()
            logits.logsumexp(dim=1).sum().backward()
        depends = any(weight.grad is not None for weight in weights)
    except Exception as error:
        if not is_refusal(error):
            raise
        raise ModelError(
            f"model {base.name!r} cannot be trained with {what} ({type(error).__name__}: {first_line(error)}); "
            + ("use LoRA" if role is None else "set lora_targets to other layers, or lora_r to 0")
        ) from error
    finally:
        for weight in weights:
            weight.grad = None
    if not depends:
        raise ModelError(f"model {base.name!r} cannot be trained with {what}: its output does not depend on them")

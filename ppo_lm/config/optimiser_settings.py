"""The optimiser and its schedule; shared by the four stages."""

from __future__ import annotations

import dataclasses

from ppo_lm.config.field_types import PositiveFloat, Text, Topic
from ppo_lm.config.settings import Settings


@dataclasses.dataclass(kw_only=True)
class OptimiserSettings(Settings):
    """How weights are updated."""

    OPTIMISATION = Topic("Optimisation")

    optimiser: Text = "adamw"
    """adamw (AdamW without weight decay), or your own, as module:name or file.py:name: a class or function that takes
    the weights, lr and eps, such as torch.optim:NAdam."""
    lr_schedule: Text = "linear"
    """Decay of the learning rates: linear, cubic, inverse, cosine or constant; after a fraction t of the run, cubic is
    (1 - t)^3 and inverse is (1 - t) / (1 + 8t). Or your own function of t, as module:name or file.py:name."""
    adam_epsilon: PositiveFloat = 1e-5
    """ε of AdamW, 1e-5 as in OpenAI's PPO. The smaller it is, the further weights with small gradients move."""

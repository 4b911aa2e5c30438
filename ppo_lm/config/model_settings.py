"""The base model and the adapters on it; shared by the four stages."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from ppo_lm.config.field_types import MAY_CHANGE, Dtype, FractionBelowOne, NonNegativeInt, PositiveFloat, Text, Topic
from ppo_lm.config.settings import Settings


@dataclasses.dataclass(kw_only=True)
class ModelSettings(Settings):
    """The base model, and the adapters on it."""

    MODEL = Topic("Model")

    model_name: Text = "Qwen/Qwen3-0.6B-Base"
    """Base model: a hub id, a folder (of a model or an adapter), a .gguf file, or "embedded" for the small model that
    comes with the package."""
    dtype: Dtype = "auto"
    """Weights of the base model; auto is bfloat16 on a GPU and float32 on a CPU. Trained weights also have a float32
    copy."""
    device: Annotated[str, MAY_CHANGE] = "auto"
    """cuda, cuda:1, mps or cpu; auto uses the first GPU, if any."""
    shard_base: Annotated[bool, MAY_CHANGE] = False
    """Share the base out among the processes (FSDP2): each of N holds about 1/N of its weights, and those of one block
    at a time are gathered; with lora_r 0, so are the trained copies, and their optimisers. Needs several processes, and
    samples without our own decoder."""
    seed: NonNegativeInt = 0
    """Random seed: new adapters and heads, data order, held-out split, sampling, mini-batches."""

    LORA = Topic("LoRA")

    lora_r: NonNegativeInt = 16
    """Rank of new adapters; 0 trains all weights. A value model that starts from a reward model, or was pretrained,
    keeps its rank."""
    lora_alpha: PositiveFloat = 32
    """Adapters are scaled by lora_alpha / lora_r."""
    lora_dropout: FractionBelowOne = 0.1
    """Dropout of the adapters in SFT and reward modelling; value modelling and PPO run without dropout (2403.17031)."""
    lora_targets: Text = "all-linear"
    """Modules that get an adapter: all-linear, or names separated by commas, such as q_proj,v_proj."""

    @property
    def shards_trained_weights(self) -> bool:
        """Whether each process trains a slice of every weight."""
        return self.shard_base and self.lora_r == 0

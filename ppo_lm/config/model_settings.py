"""The base model and the adapters on it; shared by the four stages."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from ppo_lm.config.field_types import (
    MAY_CHANGE,
    Dtype,
    FractionBelowOne,
    NonNegativeInt,
    PositiveFloat,
    Quantisation,
    Text,
    Topic,
)
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
    quantise_base: Quantisation = "none"
    """Hold the linear layers of the frozen base in 4 bits (nf4, as QLoRA does; 2305.14314) or 8 (int8); embedding,
    norms, output layer, adapters and heads keep their dtype. Needs LoRA, and samples without our own decoder."""
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

    def clashes(self) -> list[str]:
        clashes = super().clashes()
        if self.quantise_base != "none" and self.lora_r == 0:
            clashes.append(
                f"quantise_base is {self.quantise_base} but lora_r is 0, which trains all weights; only a frozen base "
                "can be quantised, so set lora_r to at least 1, or quantise_base to none"
            )
        if self.quantise_base != "none" and self.shard_base:
            clashes.append(
                f"quantise_base is {self.quantise_base} and shard_base is set; a quantised base cannot be sharded, so "
                "set quantise_base to none, or shard_base to false"
            )
        return clashes

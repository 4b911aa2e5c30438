"""The settings of `ppo-lm generate`. Does not import torch."""

from __future__ import annotations

import dataclasses

from ppo_lm.config.clashes import top_p_clashes
from ppo_lm.config.data_settings import SourceSettings
from ppo_lm.config.end_settings import EndSettings
from ppo_lm.config.field_types import (
    Dtype,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFraction,
    PositiveInt,
    Quantisation,
    Topic,
)
from ppo_lm.config.settings import checked


@checked
@dataclasses.dataclass(kw_only=True)
class GenerateConfig(SourceSettings, EndSettings):
    """Every setting of `ppo-lm generate`."""

    EVERYDAY = (
        "models",
        "prompt",
        "prompts",
        "out",
        "max_new_tokens",
        "temperature",
        "top_k",
        "top_p",
        "seed",
        "device",
    )

    POSITIONAL = "models"

    MODEL = Topic("Model")

    models: list[str] | None = None
    """Models that answer, as MODEL or NAME=MODEL; repeat the option to see them side by side. MODEL is a hub id, a
    folder (of a model, an adapter, or a run, finished or not), a .gguf file, or "embedded"."""
    dtype: Dtype = "auto"
    """Weights of the models; auto is bfloat16 on a GPU and float32 on a CPU."""
    device: str = "auto"
    """cuda, cuda:1, mps or cpu; auto uses the first GPU, if any."""
    quantise_base: Quantisation = "none"
    """Hold the linear layers of models, without their adapters, in 4 bits (nf4) or 8 (int8). With none, an adapter
    that was trained on a quantised base is put onto the same one."""
    seed: NonNegativeInt = 0
    """Random seed of the sampling, the same for every model."""

    DATA = Topic("Data")

    prompt: list[str] | None = None
    """A prompt to answer; repeat the option for several. Without prompt and prompts, you are asked for them."""
    prompts: str | None = None
    """Prompts to answer: a .txt file (one per line), a .jsonl, .json, .csv or .parquet file, a folder of these, a saved
    data set, a hub data set id, or "embedded"."""
    limit: NonNegativeInt = 0
    """Answer at most this many of prompts, the first ones; 0 for all."""
    out: str | None = None
    """JSONL file for the answers, which must not exist yet. Default: they are printed."""

    SAMPLING = Topic("Sampling")

    max_new_tokens: PositiveInt = 128
    """Longest answer, in tokens."""
    temperature: NonNegativeFloat = 1.0
    """Sampling temperature; 0 is greedy."""
    top_k: NonNegativeInt = 50
    """Sample only from the k most likely tokens; 0 for all."""
    top_p: PositiveFraction = 0.95
    """Sample only from the most likely tokens whose probabilities add up to top_p; 1 for all."""

    MEMORY = Topic("Memory and speed")

    batch_size: PositiveInt = 64
    """Prompts answered at once."""

    def clashes(self) -> list[str]:
        clashes = [*super().clashes(), *top_p_clashes(self.top_k, self.top_p)]
        if self.prompt and self.prompts:
            clashes.append("prompt and prompts are both set; give one of them")
        if self.out and not (self.prompt or self.prompts):
            clashes.append("out is set, but neither prompt nor prompts; say what to answer")
        return clashes

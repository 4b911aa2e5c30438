"""The settings of an evaluation. Importing this imports no torch."""

from __future__ import annotations

from typing import ClassVar

from ppo_lm.config.data_settings import PromptSettings
from ppo_lm.config.settings import (
    AT_LEAST_ONE,
    NOT_EMPTY,
    NOT_NEGATIVE,
    PROBABILITY,
    one_of,
    sampling_clashes,
    settings,
)


@settings
class EvaluateConfig(PromptSettings):
    """Every setting of `ppo-lm evaluate`."""

    models: list[str] | None = None
    """The policies to compare, each as NAME=MODEL or MODEL: whatever model_name takes, the adapter folder of a run, or
    column:NAME for the completions in a column of the prompts. The first is the baseline; the first that is a model,
    the reference of the KL."""
    eval_prompts: int = 128
    """How many prompts to evaluate on, or all there are: first those that a run with the same prompts, seed and
    eval_prompts has held out."""
    dtype: str = "auto"
    """Weights: float32 or bfloat16; auto is bfloat16 on a GPU, float32 on a CPU."""
    device: str = "auto"
    """Where to run: cuda, cuda:1, mps or cpu; auto takes the first GPU, if there is one."""
    seed: int = 0
    """Seeds the held-out split (use the run's own seed to evaluate on what it held out), sampling and the bootstrap."""
    judge: str | None = None
    """What decides which of two completions is better: anything that `reward` takes in `ppo-lm train`; none: TL;DR
    heuristics."""
    judge_base: str | None = None
    """The model that a reward model's folder was trained on; none: the one that the folder names."""
    batch_size: int = 64
    """Prompts sampled at once."""
    micro_batch_tokens: int = 1024
    """Tokens, prompts included, in memory at once while scoring; halved when memory runs out."""
    max_new_tokens: int = 64
    """Longest completion, in tokens."""
    temperature: float = 1.0
    """Temperature of the sampled evaluation."""
    eval_temperature: float = 0.01
    """Temperature of the near-greedy evaluation."""
    top_k: int = 0
    """Sample from the so many likeliest tokens only; 0 for all."""
    top_p: float = 1.0
    """Sample from the likeliest tokens that together reach this probability only; 1 for all."""
    output_dir: str = "runs/evaluation"
    """Folder for results.json, completions.jsonl, report.md and its pictures."""

    RULES: ClassVar = {
        NOT_EMPTY: ("output_dir",),
        one_of("auto", "float32", "bfloat16"): ("dtype",),
        AT_LEAST_ONE: ("eval_prompts", "batch_size", "micro_batch_tokens", "max_new_tokens"),
        NOT_NEGATIVE: ("seed", "top_k", "temperature", "eval_temperature"),
        PROBABILITY: ("top_p",),
    }

    def clashes(self) -> list[str]:
        return [*super().clashes(), *sampling_clashes(self.top_k, self.top_p)]

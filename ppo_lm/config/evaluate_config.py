"""The settings of an evaluation. Does not import torch."""

from __future__ import annotations

import dataclasses

from ppo_lm.config.clashes import top_p_clashes
from ppo_lm.config.data_settings import PromptSettings
from ppo_lm.config.end_settings import EndSettings
from ppo_lm.config.field_types import (
    Dtype,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFraction,
    PositiveInt,
    Quantisation,
    Text,
    Topic,
)
from ppo_lm.config.run_settings import FolderSettings
from ppo_lm.config.settings import checked


@checked
@dataclasses.dataclass(kw_only=True)
class EvaluateConfig(PromptSettings, EndSettings, FolderSettings):
    """Every setting of `ppo-lm evaluate`."""

    EVERYDAY = (
        "models",
        "prompts",
        "judge",
        "eval_prompts",
        "max_new_tokens",
        "temperature",
        "batch_size",
        "device",
        "seed",
        "output_dir",
    )

    POSITIONAL = "models"

    MODEL = Topic("Model")

    models: list[str] | None = None
    """Policies to compare, as MODEL or NAME=MODEL; repeat the option for each. MODEL is a hub id, a folder (of a
    model, an adapter, or a run, finished or not), a .gguf file, "embedded", or column:NAME for the completions in a
    column of the prompts. The first is the baseline; the first that is not a column is the reference of the KL."""
    dtype: Dtype = "auto"
    """Weights of the models; auto is bfloat16 on a GPU and float32 on a CPU."""
    device: str = "auto"
    """cuda, cuda:1, mps or cpu; auto uses the first GPU, if any."""
    quantise_base: Quantisation = "none"
    """Hold the linear layers of models, without their adapters, in 4 bits (nf4) or 8 (int8). With none, an adapter
    that was trained on a quantised base is put onto the same one."""
    seed: NonNegativeInt = 0
    """Random seed: sampling, and the choice of prompts. Use the seed of the run to evaluate on the prompts that it held
    out."""

    SAMPLING = Topic("Sampling")

    max_new_tokens: PositiveInt = 64
    """Longest completion, in tokens."""
    temperature: NonNegativeFloat = 1.0
    """Temperature of the sampled evaluation."""
    eval_temperature: NonNegativeFloat = 0.01
    """Temperature of the near-greedy evaluation."""
    top_k: NonNegativeInt = 0
    """Sample only from the k most likely tokens; 0 for all."""
    top_p: PositiveFraction = 1.0
    """Sample only from the most likely tokens whose probabilities add up to top_p; 1 for all."""

    EVALUATION = Topic("Evaluation")

    eval_prompts: PositiveInt = 128
    """Number of prompts to evaluate on, or all if there are fewer. Those that a run with the same prompts, seed and
    eval_prompts held out come first."""
    judge: str | None = None
    """What decides which completion is better: anything that `ppo-lm train` takes as --reward. Default: TL;DR
    heuristics."""
    judge_base: str | None = None
    """Base model of a judge that is a reward model. Default: the one named in its folder."""
    judge_timeout: NonNegativeFloat = 3600.0
    """Seconds that a judge may take for a batch; 0 for no limit. A reward model has no limit."""

    MEMORY = Topic("Memory and speed")

    batch_size: PositiveInt = 64
    """Prompts sampled at once."""
    micro_batch_tokens: PositiveInt | None = None
    """Tokens, prompts included, per forward pass; halved when memory runs out. Default: 1024 on a CPU; on a GPU, what
    fits into half of its free memory."""

    RUN = Topic("Run folder")

    output_dir: Text = "runs/evaluation"
    """Folder for results.json, completions.jsonl and report.md with its plots."""

    def clashes(self) -> list[str]:
        return [*super().clashes(), *top_p_clashes(self.top_k, self.top_p)]

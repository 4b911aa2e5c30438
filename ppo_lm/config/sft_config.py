"""The settings of supervised fine-tuning. Importing this imports no torch."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ppo_lm.config.data_settings import SourceSettings
from ppo_lm.config.settings import AT_LEAST_ONE, NOT_EMPTY, NOT_NEGATIVE, POSITIVE, ModelSettings, settings


@dataclasses.dataclass
class SupervisedSettings(SourceSettings, ModelSettings):
    """What supervised fine-tuning and reward modelling share."""

    max_tokens: int = 1024
    """Longest example, prompt and completion together; longer ones are left out and counted (see also
    max_prompt_tokens)."""
    held_out: int = 256
    """How many examples to hold out for evaluation, by prompt and with the seed, at most half of them."""
    batch_size: int = 32
    """Examples an optimiser step."""
    micro_batch_size: int = 8
    """Examples in memory at once; changes memory and speed, no result but for dropout."""
    epochs: int = 1
    """Passes over the data."""
    max_steps: int = 0
    """Stop after so many optimiser steps; 0 for no limit. The learning rate falls to 0 at the end either way."""
    learning_rate: float = 1e-4
    """Peak learning rate; 5% warm-up, then a cosine to 0."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are scaled down to it."""

    save_every: int = 100
    """Save a checkpoint to resume from before the first step and every so many steps; none is left when the run has
    ended. 0: only the first, and when it is paused."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints to keep; with one alone, a damaged disk has none to fall back on."""

    MAY_CHANGE: ClassVar = ("output_dir", "device", "save_every", "keep_checkpoints")  # when a run is resumed

    RULES: ClassVar = {
        AT_LEAST_ONE: ("max_tokens", "batch_size", "micro_batch_size", "epochs", "keep_checkpoints"),
        NOT_NEGATIVE: ("held_out", "max_steps", "save_every"),
        POSITIVE: ("learning_rate", "max_grad_norm"),
    }


@settings
class SFTConfig(SupervisedSettings):
    """Every setting of `ppo-lm sft`."""

    demonstrations: str | None = None
    """Prompts with completions: "embedded", a .jsonl, .json, .csv or .parquet file, a folder of these, or a hub data
    set id. A column `messages` with whole conversations does too."""
    completion_column: str = "completion"
    """The column that holds the completion: text, or the assistant's message."""
    rouge_samples: int = 64
    """Held-out prompts to complete near-greedily and compare with the reference by ROUGE; 0 for none."""
    max_new_tokens: int = 128
    """Longest completion written for ROUGE."""
    output_dir: str = "runs/sft"
    """Folder of the run: merged (plain transformers; PPO starts from it), adapter if lora_r is above 0, metrics, data
    report."""

    RULES: ClassVar = {
        NOT_EMPTY: ("completion_column", "output_dir"),
        AT_LEAST_ONE: ("max_new_tokens",),
        NOT_NEGATIVE: ("rouge_samples",),
    }

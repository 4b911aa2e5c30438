"""The settings of collecting preferences. Does not import torch."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from ppo_lm.config.data_settings import SourceSettings
from ppo_lm.config.end_settings import EndSettings
from ppo_lm.config.field_types import Dtype, NonNegativeInt, PositiveFloat, PositiveInt, Rule, Text, Topic
from ppo_lm.config.settings import checked

Port = Annotated[int, Rule("be between 0 and 65535 (0 for any free port)", lambda value: 0 <= value <= 65535)]


@checked
@dataclasses.dataclass(kw_only=True)
class CollectConfig(SourceSettings, EndSettings):
    """Every setting of `ppo-lm collect`."""

    EVERYDAY = (
        "pairs",
        "prompts",
        "model_name",
        "temperature",
        "max_new_tokens",
        "count",
        "annotator",
        "seed",
        "output_dir",
        "port",
    )

    DATA = Topic("Data")

    pairs: str | None = None
    """Prompts with two completions each: a .jsonl, .json, .csv or .parquet file, a folder of these, or a hub data set
    id."""
    first_column: Text = "completion_a"
    """Column of `pairs` with one completion."""
    second_column: Text = "completion_b"
    """Column of `pairs` with the other. Which one is shown as A is random, and recorded."""
    prompts: str | None = None
    """Prompts, instead of `pairs`: the model writes two completions for each while you judge."""

    MODEL = Topic("Model")

    model_name: Text = "embedded"
    """Model that writes the completions: a hub id, a folder (of a model or an adapter), a .gguf file, or "embedded"."""
    dtype: Dtype = "auto"
    """Weights of the model; auto is bfloat16 on a GPU and float32 on a CPU."""
    device: str = "auto"
    """cuda, cuda:1, mps or cpu; auto uses the first GPU, if any."""
    seed: NonNegativeInt = 0
    """Random seed: order, sides, repeated pairs, completions."""

    SAMPLING = Topic("Sampling")

    temperature: PositiveFloat = 1.0
    """Sampling temperature."""
    max_new_tokens: PositiveInt = 64
    """Longest completion, in tokens."""

    JUDGING = Topic("Judging")

    count: NonNegativeInt = 0
    """Number of pairs to judge; 0 for all."""
    repeat_every: NonNegativeInt = 10
    """Repeat an earlier pair, sides swapped, once every this many pairs, to measure how often you agree with yourself;
    0 for never."""
    annotator: Text = "me"
    """Your name, stored with each answer."""

    SERVER = Topic("Server")

    host: Text = "127.0.0.1"
    """Address to listen on. Unless it is a loopback address, visitors need the token that is printed."""
    port: Port = 8642
    """Port to listen on; 0 for any free port."""

    RUN = Topic("Run folder")

    output_dir: Text = "runs/feedback"
    """Folder for answers.jsonl and preferences.jsonl. Use the same folder again to continue."""

    def clashes(self) -> list[str]:
        clashes = super().clashes()
        if (self.pairs is None) == (self.prompts is None):
            clashes.append("give either pairs (completions from a file) or prompts (completions from a model)")
        if self.pairs is not None and self.max_prompt_tokens:
            clashes.append("max_prompt_tokens is set but pairs already have completions; remove it")
        if self.repeat_every == 1:
            clashes.append("repeat_every is 1, so no new pair would ever be shown; set it to 0, or to 2 or more")
        return clashes

"""The settings of collecting preferences. Importing this imports no torch."""

from __future__ import annotations

from typing import ClassVar

from ppo_lm.config.data_settings import SourceSettings
from ppo_lm.config.settings import AT_LEAST_ONE, NOT_EMPTY, NOT_NEGATIVE, POSITIVE, Rule, one_of, settings

PORT = Rule("between 0 and 65535 (0: any free one)", lambda value: 0 <= value <= 65535)


@settings
class CollectConfig(SourceSettings):
    """Every setting of `ppo-lm collect`."""

    pairs: str | None = None
    """Prompts with two completions each, to choose from: a .jsonl, .json, .csv or .parquet file, a folder of these, or
    a hub data set id."""
    first_column: str = "completion_a"
    """The column of `pairs` with one completion."""
    second_column: str = "completion_b"
    """The column of `pairs` with the other; which of them is shown as A is drawn for each pair, and recorded."""
    prompts: str | None = None
    """Prompts for which two completions are drawn from the model while you judge; instead of `pairs`."""
    model_name: str = "embedded"
    """The model that writes completions for `prompts`: a hub id, a folder (a model's or an adapter's), a .gguf file, or
    "embedded"."""
    dtype: str = "auto"
    """Weights: float32 or bfloat16; auto is bfloat16 on a GPU, float32 on a CPU."""
    device: str = "auto"
    """Where to run: cuda, cuda:1, mps or cpu; auto takes the first GPU, if there is one."""
    temperature: float = 1.0
    """Temperature of the completions."""
    max_new_tokens: int = 64
    """Longest completion, in tokens."""
    count: int = 0
    """Judge so many pairs; 0 for all there are."""
    repeat_every: int = 10
    """Show every so many pairs one from before once more, sides exchanged, to measure how well you agree with yourself;
    0 for never."""
    seed: int = 0
    """Seeds the order, the sides, the repetitions and the completions."""
    annotator: str = "me"
    """Your name, kept with every answer."""
    output_dir: str = "runs/feedback"
    """Folder for answers.jsonl and preferences.jsonl; give the same one again to go on."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything but this machine's own asks visitors for a token, which is printed."""
    port: int = 8642
    """Port to listen on; 0 for any free one."""

    RULES: ClassVar = {
        NOT_EMPTY: ("first_column", "second_column", "model_name", "annotator", "output_dir", "host"),
        one_of("auto", "float32", "bfloat16"): ("dtype",),
        AT_LEAST_ONE: ("max_new_tokens",),
        POSITIVE: ("temperature",),
        NOT_NEGATIVE: ("count", "repeat_every", "seed"),
        PORT: ("port",),
    }

    def clashes(self) -> list[str]:
        if (self.pairs is None) == (self.prompts is None):
            return ["give either pairs (completions from a file) or prompts (completions from a model)"]
        if self.pairs is not None and self.max_prompt_tokens:
            return [
                "max_prompt_tokens cuts prompts for a model, but pairs have their completions already; leave it out"
            ]
        if self.repeat_every == 1:
            return ["repeat_every is 1, so there would be no new pair; it must be 0, or 2 or more"]
        return []

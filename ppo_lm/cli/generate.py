"""`ppo-lm generate`: models that answer prompts."""

from __future__ import annotations

from itertools import takewhile

from ppo_lm.cli.options import note, read_config
from ppo_lm.config import GenerateConfig


def run(arguments: list[str], prog: str) -> None:
    """Answer the prompts that the options name, or those that are typed. Models may come first, without an option."""
    models = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    options = [part for model in models for part in ("--models", model)] + arguments[len(models) :]
    description = "Answer prompts with one model, or with several side by side: ppo-lm generate MODEL [MODEL ...]."
    config = read_config(GenerateConfig, options, prog, description)
    if config.models is None:
        note("no model is named, so the embedded one answers")
        config.models = ["embedded"]
    from ppo_lm.generation import run_generation

    made = run_generation(config)
    if config.out:
        print(f"{len(made)} answers written to {config.out}")

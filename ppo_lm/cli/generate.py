"""`ppo-lm generate`: models that answer prompts."""

from __future__ import annotations

from ppo_lm.cli.options import importing, note, read_config
from ppo_lm.cli.parser import ConfigParser
from ppo_lm.config import GenerateConfig


def make_parser(prog: str) -> ConfigParser[GenerateConfig]:
    """The options of the command."""
    return ConfigParser(GenerateConfig, prog, "Answer prompts with one model, or with several side by side.")


def run(arguments: list[str], prog: str) -> None:
    """Answer the prompts that the options name, or those that are typed."""
    config = read_config(make_parser(prog), arguments)
    if config.models is None:
        note("no model is named, so the embedded one answers")
        config.models = ["embedded"]
    with importing():
        from ppo_lm.generation import run_generation

    made = run_generation(config)
    if config.out:
        print(f"{len(made)} answers written to {config.out}")

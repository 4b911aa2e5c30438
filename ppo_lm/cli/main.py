"""The command line: `ppo-lm train`, `ppo-lm build-embedded`."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, set_parsing_settings

from ppo_lm.config import PPOConfig
from ppo_lm.errors import ConfigError, UserError

set_parsing_settings(docstring_parse_attribute_docstrings=True)  # each field's help is the line under it

EMBEDDED_SETTINGS = Path(__file__).parents[1] / "embedded" / "settings.yaml"


def main(arguments: list[str] | None = None) -> None:
    """Run a subcommand; a user's mistake ends it with one sentence and exit code 1."""
    arguments = sys.argv[1:] if arguments is None else arguments
    commands = {"train": train, "build-embedded": build_embedded}
    if not arguments or arguments[0] not in commands:
        known = bool(arguments) and arguments[0] in ("-h", "--help")
        print("usage: ppo-lm {" + ",".join(commands) + "} [options]; `ppo-lm COMMAND --help` lists the options", file=None if known else sys.stderr)
        raise SystemExit(0 if known else 2)
    commands[arguments[0]](arguments[1:])


def train(arguments: list[str], prog: str = "ppo-lm train") -> None:
    """PPO, from `--config FILE.yaml` and any field of `PPOConfig` as an option."""
    try:
        config = read_config(arguments, prog)
        if config.prompts is None:
            raise ConfigError(['prompts is not set; name a file, a hub data set, or "embedded"'])
        from transformers.utils.logging import disable_progress_bar

        from ppo_lm.ppo_trainer import PPOTrainer

        disable_progress_bar()
        PPOTrainer(config).train()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


def read_config(arguments: list[str], prog: str) -> PPOConfig:
    """Defaults, then the file, then the options. Raises `ConfigError`; unknown options and fields end with a usage line, exit code 2."""
    parser = ArgumentParser(
        prog=prog,
        description="PPO fine-tuning of a language model. Without --config and --model_name: the embedded task.",
        exit_on_error=True,
    )
    parser.add_argument("--config", action="config", help="a YAML file with any of the fields below")
    parser.add_class_arguments(PPOConfig, instantiate=False)
    named = {argument.split("=")[0] for argument in arguments}
    if not named & {"--config", "--model_name"}:
        own_prompts = ["--monitor=null"] if "--prompts" in named else []  # the gold scorer knows the embedded posts only
        arguments = [f"--config={EMBEDDED_SETTINGS}", *own_prompts, *arguments]
    return PPOConfig(**{name: value for name, value in vars(parser.parse_args(arguments)).items() if name != "config"})


def build_embedded(arguments: list[str]) -> None:
    """Build the embedded model from nothing but its grammar into a folder."""
    parser = ArgumentParser(prog="ppo-lm build-embedded", description="Build the embedded model and its reward model, from random weights.")
    parser.add_argument("--output_dir", type=str, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seeds the weights and the order of the data")
    settings = parser.parse_args(arguments)
    from ppo_lm.embedded.build import build_embedded as build

    for name, value in build(Path(settings.output_dir), settings.seed).items():
        print(f"{name}: {value:.4f}")

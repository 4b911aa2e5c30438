"""`ppo-lm train`: PPO, from prompts and a reward."""

from __future__ import annotations

from ppo_lm.cli.options import note
from ppo_lm.cli.parser import OF_A_RUN, ConfigParser
from ppo_lm.cli.stages import read_run
from ppo_lm.config import PPOConfig
from ppo_lm.errors import ConfigError


def make_parser(prog: str) -> ConfigParser[PPOConfig]:
    """The options of the command."""
    return ConfigParser(PPOConfig, prog, "PPO fine-tuning of a language model.", task="train", general=OF_A_RUN)


def run(arguments: list[str], prog: str) -> None:
    """Train the policy that the options describe, or resume a run."""
    request = read_run(make_parser(prog), arguments)
    config = request.config
    if config.prompts is None:
        raise ConfigError.no_data("prompts")
    if config.reward is None:
        note("reward is not set, so TL;DR heuristics score the responses")
    from ppo_lm.ppo_trainer import PPOTrainer
    from ppo_lm.run import check_output_dir

    check_output_dir(config, request.resume, request.overwrite)
    PPOTrainer(config).train(**request.options())

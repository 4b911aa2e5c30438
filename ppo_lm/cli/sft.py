"""`ppo-lm sft`: supervised fine-tuning, from demonstrations."""

from __future__ import annotations

from ppo_lm.cli.parser import OF_A_RUN, ConfigParser
from ppo_lm.cli.stages import read_run
from ppo_lm.config import SFTConfig


def make_parser(prog: str) -> ConfigParser[SFTConfig]:
    """The options of the command."""
    return ConfigParser(SFTConfig, prog, "Supervised fine-tuning of a language model.", task="sft", general=OF_A_RUN)


def run(arguments: list[str], prog: str) -> None:
    """Fine-tune the model that the options describe, or resume a run."""
    request = read_run(make_parser(prog), arguments)
    from ppo_lm.sft import run_sft

    run_sft(request.config, **request.options())

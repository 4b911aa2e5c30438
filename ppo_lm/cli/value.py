"""`ppo-lm value`: a value model, from demonstrations and a reward."""

from __future__ import annotations

from ppo_lm.cli.parser import OF_A_RUN, ConfigParser
from ppo_lm.cli.stages import read_run
from ppo_lm.config import ValueConfig


def make_parser(prog: str) -> ConfigParser[ValueConfig]:
    """The options of the command."""
    return ConfigParser(
        ValueConfig, prog, "Train a value model on demonstrations and a reward.", task="value", general=OF_A_RUN
    )


def run(arguments: list[str], prog: str) -> None:
    """Train the value model that the options describe, or resume a run."""
    request = read_run(make_parser(prog), arguments)
    from ppo_lm.value_modeling import run_value

    run_value(request.config, **request.options())

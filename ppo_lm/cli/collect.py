"""`ppo-lm collect`: preferences from people."""

from __future__ import annotations

from ppo_lm.cli.options import importing, note, read_config
from ppo_lm.cli.parser import ConfigParser
from ppo_lm.config import CollectConfig


def make_parser(prog: str) -> ConfigParser[CollectConfig]:
    """The options of the command."""
    return ConfigParser(CollectConfig, prog, "Judge pairs of completions in a browser.")


def run(arguments: list[str], prog: str) -> None:
    """Serve the page on which people judge pairs of completions."""
    config = read_config(make_parser(prog), arguments)
    if config.prompts is not None and config.model_name == "embedded":
        note("the embedded model writes the completions; choose another with --model_name")
    with importing():
        from ppo_lm.collection import run_collection

    run_collection(config)

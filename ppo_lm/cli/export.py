"""`ppo-lm export`: the results of a run, for other programs and for the hub."""

from __future__ import annotations

import sys

from ppo_lm.cli.options import importing, note, read_config
from ppo_lm.cli.parser import ConfigParser
from ppo_lm.config import ExportConfig
from ppo_lm.terminal.pinned import readable


def make_parser(prog: str) -> ConfigParser[ExportConfig]:
    """The options of the command."""
    return ConfigParser(ExportConfig, prog, "Export what a run has trained, with a model card.")


def run(arguments: list[str], prog: str) -> None:
    """Export the run in the given folder."""
    config = read_config(make_parser(prog), arguments)
    with importing():
        from ppo_lm.exporting import run_export

    exported = run_export(config, note)
    print(readable("\n".join(exported.lines()), sys.stdout))

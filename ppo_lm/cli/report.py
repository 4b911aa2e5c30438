"""`ppo-lm report`: runs in one HTML file, or in the terminal."""

from __future__ import annotations

from pathlib import Path

from ppo_lm.cli.options import note, read_config
from ppo_lm.cli.parser import ConfigParser
from ppo_lm.config import ReportConfig
from ppo_lm.reading import user_path
from ppo_lm.terminal import printable

NAME = "report.html"


def make_parser(prog: str) -> ConfigParser[ReportConfig]:
    """The options of the command."""
    return ConfigParser(ReportConfig, prog, "Show runs, finished or not, in one HTML file that needs no network.")


def run(arguments: list[str], prog: str) -> None:
    """Show the runs in the given folders."""
    config = read_config(make_parser(prog), arguments)
    folders = [user_path(folder, "folders") for folder in config.require_folders()]
    from ppo_lm.report import read_run_folder, show_report, write_report

    if config.terminal:
        from rich.console import Console

        show_report([read_run_folder(folder) for folder in folders], Console(highlight=False), config.colour_by)
        return
    file = user_path(config.out, "out") if config.out is not None else _default(folders)
    for sentence in write_report(folders, file):
        note(sentence)
    print(printable(f"written to {file}: open it in a browser"))


def _default(folders: list[Path]) -> Path:
    return folders[0] / NAME if len(folders) == 1 else Path(NAME)

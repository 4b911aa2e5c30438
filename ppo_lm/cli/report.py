"""`ppo-lm report`: runs in one HTML file, or in the terminal."""

from __future__ import annotations

from pathlib import Path

from ppo_lm.cli.options import note
from ppo_lm.cli.parser import Parser
from ppo_lm.config.other_names import did_you_mean
from ppo_lm.errors import ConfigError
from ppo_lm.reading import user_path
from ppo_lm.terminal import printable

NAME = "report.html"
COLOUR_BY = "advantages"


def run(arguments: list[str], prog: str) -> None:
    """Show the runs in the given folders."""
    from ppo_lm.report import NUMBERS, read_run_folder, show_report, write_report

    parser = Parser(prog, "Show runs, finished or not, in one HTML file that needs no network.", "FOLDER ...")
    parser.add_argument("folders", metavar="FOLDER", nargs="+", help="Folder of a run; several are shown side by side.")
    parser.add_argument(
        "--out", metavar="FILE", help=f"Where to write. Default: {NAME} in the run's folder; for several runs, here."
    )
    parser.add_argument("--terminal", action="store_true", help="Print it here instead of writing a file.")
    numbers = f"With --terminal: what colours tokens, one of {', '.join(NUMBERS)}. Default: {COLOUR_BY}."
    parser.add_argument("--colour_by", metavar="NUMBER", help=numbers)
    given = parser.parse(arguments)
    folders = [user_path(folder, "FOLDER") for folder in given["folders"]]
    colour_by = given.get("colour_by", COLOUR_BY)
    if colour_by not in NUMBERS:
        raise ConfigError.of(f"--colour_by is {colour_by!r}, which no token has{did_you_mean(colour_by, NUMBERS)}")
    if "terminal" in given:
        from rich.console import Console

        show_report([read_run_folder(folder) for folder in folders], Console(highlight=False), colour_by)
        return
    file = user_path(given["out"], "--out") if "out" in given else _default(folders)
    for sentence in write_report(folders, file):
        note(sentence)
    print(printable(f"written to {file}: open it in a browser"))


def _default(folders: list[Path]) -> Path:
    return folders[0] / NAME if len(folders) == 1 else Path(NAME)

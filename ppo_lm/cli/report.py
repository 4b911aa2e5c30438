"""`ppo-lm report`: PPO runs in one HTML file."""

from __future__ import annotations

from pathlib import Path

from ppo_lm.cli.options import note
from ppo_lm.cli.parser import Parser
from ppo_lm.reading import user_path
from ppo_lm.terminal import printable

NAME = "report.html"


def run(arguments: list[str], prog: str) -> None:
    """Write the report on the runs in the given folders."""
    parser = Parser(prog, "Show PPO runs, finished or not, in one HTML file that needs no network.", "FOLDER ...")
    parser.add_argument("folders", metavar="FOLDER", nargs="+", help="Folder of a run; several are shown side by side.")
    parser.add_argument(
        "--out", metavar="FILE", help=f"Where to write. Default: {NAME} in the run's folder; for several runs, here."
    )
    given = parser.parse(arguments)
    folders = [user_path(folder, "FOLDER") for folder in given["folders"]]
    file = user_path(given["out"], "--out") if "out" in given else _default(folders)
    from ppo_lm.report import write_report

    for sentence in write_report(folders, file):
        note(sentence)
    print(printable(f"written to {file}: open it in a browser"))


def _default(folders: list[Path]) -> Path:
    return folders[0] / NAME if len(folders) == 1 else Path(NAME)

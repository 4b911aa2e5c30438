"""`ppo-lm doctor`: known signs of failure in a PPO run."""

from __future__ import annotations

from pathlib import Path

from ppo_lm.cli.parser import Parser


def run(arguments: list[str], prog: str) -> None:
    """Print what the folder of a run shows, one finding per line."""
    parser = Parser(prog, "Check a PPO run, finished or not, for known signs of failure.", "FOLDER")
    parser.add_argument("folder", metavar="FOLDER", help="Folder of the run.")
    folder = Path(parser.parse(arguments)["folder"]).expanduser()
    from ppo_lm.health import examine

    print("\n".join(examine(folder)))

"""`ppo-lm doctor`: known signs of failure in a PPO run."""

from __future__ import annotations

from ppo_lm.cli.parser import Parser
from ppo_lm.reading import user_path
from ppo_lm.terminal import printable


def run(arguments: list[str], prog: str) -> None:
    """Print what the folder of a run shows, one finding per line."""
    parser = Parser(prog, "Check a PPO run, finished or not, for known signs of failure.", "FOLDER")
    parser.add_argument("folder", metavar="FOLDER", help="Folder of the run.")
    folder = user_path(parser.parse(arguments)["folder"], "FOLDER")
    from ppo_lm.health import examine

    print(printable("\n".join(examine(folder))))

"""`ppo-lm doctor`: known signs of failure in a PPO run."""

from __future__ import annotations

from ppo_lm.cli.options import make_config
from ppo_lm.cli.output import print_json
from ppo_lm.cli.parser import JSON, PRINT_CONFIG, ConfigParser
from ppo_lm.config import DoctorConfig
from ppo_lm.reading import user_path
from ppo_lm.terminal import printable


def make_parser(prog: str) -> ConfigParser[DoctorConfig]:
    """The options of the command."""
    description = "Check a PPO run, finished or not, for known signs of failure."
    return ConfigParser(DoctorConfig, prog, description, general=(PRINT_CONFIG, JSON))


def run(arguments: list[str], prog: str) -> None:
    """Print what the folder of a run shows, one finding per line."""
    parser = make_parser(prog)
    options = parser.parse(arguments)
    json = options.pop("json", False)
    config = make_config(parser, options)
    from ppo_lm.health import examine

    examination = examine(user_path(config.require_folder(), "folder"))
    if json:
        print_json(examination.record())
    else:
        print(printable("\n".join(examination.lines())))

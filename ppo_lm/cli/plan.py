"""`ppo-lm plan`: memory, time and layout of a PPO run before it is started."""

from __future__ import annotations

from ppo_lm.cli.options import importing, make_config
from ppo_lm.cli.output import print_json
from ppo_lm.cli.parser import JSON, PRINT_CONFIG, ConfigParser
from ppo_lm.config import PlanConfig


def make_parser(prog: str) -> ConfigParser[PlanConfig]:
    """The options of the command."""
    description = "Predict memory, time and layout of `ppo-lm train` with the same options, without training."
    return ConfigParser(PlanConfig, prog, description, task="train", general=(PRINT_CONFIG, JSON))


def run(arguments: list[str], prog: str) -> None:
    """Print the plan of the run that the options describe."""
    parser = make_parser(prog)
    options = parser.parse(arguments)
    json, files = options.pop("json", False), options.get("config", [])
    config = make_config(parser, {**options, "overwrite": True})  # no folder is written, so any will do
    with importing():
        from ppo_lm.planning import choose, command_for, find_hardware, read_job
    hardware = find_hardware(config)
    job, lengths = read_job(config, hardware)
    choice = choose(job, hardware)
    settings = {name: value for name, value in options.items() if name not in ("config", "print_config")}
    command = command_for(choice.plan, files, settings)
    if json:
        print_json(choice.record() | {"command": command if choice.plan.fits else None})
        return
    from rich.console import Console

    from ppo_lm.planning.table import show_plan

    show_plan(choice, lengths, command, Console(highlight=False))

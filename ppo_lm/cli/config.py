"""`ppo-lm config`: files of settings, written with their help texts, checked, or shortened to what is not a default."""

from __future__ import annotations

from typing import NoReturn

from ppo_lm.cli.commands import COMMANDS, add_commands, parser_of
from ppo_lm.cli.embedded_task import embedded_task
from ppo_lm.cli.options import EMBEDDED, checked_config, read_named
from ppo_lm.cli.parser import ConfigParser, GeneralOption, Parser
from ppo_lm.config.other_names import did_you_mean
from ppo_lm.config.template import dump_changed, dump_template

CHANGED = GeneralOption("changed", "Print only the settings that are not the defaults, without comments.")
DESCRIPTION = (
    "Print every setting of a command as YAML, with its help text, for you to edit. What a file or an option sets is "
    "set; defaults are commented out. All problems in the file are reported at once, and nothing is run."
)


def make_parser(prog: str) -> Parser:
    """A parser with one for each command that has settings."""
    whole = Parser(prog, DESCRIPTION, "COMMAND [--config FILE] [--OPTION VALUE ...] [--changed]")
    add_commands(whole, {command: parser for command in COMMANDS if (parser := _settings_parser(command, prog))})
    whole.add_general_group()
    return whole


def run(arguments: list[str], prog: str) -> None:
    """Print the settings of a command."""
    command, *rest = arguments or [""]
    parser = _settings_parser(command, prog)
    if parser is None:
        _refuse(command, prog)
    options = parser.parse(rest)
    changed, files = options.pop("changed", False), options.pop("config", [])
    named = read_named(parser, files, options)
    if EMBEDDED in files and parser.task is not None:
        named = embedded_task(parser.task, parser.config, named) | named
    if named:
        checked_config(parser.config, named, files)
    print(dump_changed(parser.config, named) if changed else dump_template(parser.config, named, command), end="")


def _settings_parser(command: str, prog: str) -> ConfigParser | None:
    """What may be said about the settings of a command, if it has any."""
    parser = parser_of(command, command) if command in COMMANDS and command != "config" else None
    if not isinstance(parser, ConfigParser):
        return None
    return ConfigParser(parser.config, f"{prog} {command}", DESCRIPTION, task=parser.task, general=(CHANGED,))


def _refuse(command: str, prog: str) -> NoReturn:
    whole = make_parser(prog)
    if command.startswith("-"):
        whole.parse([command])  # --help, or an unknown option
    if not command:
        whole.error(f"no command is named; write, for example: {prog} train")
    known = [each for each in COMMANDS if _settings_parser(each, prog)]
    whole.error(f"{command!r} is not a command with settings{did_you_mean(command, known)}")

"""`ppo-lm config`: files of settings, written with their help texts, checked, or shortened to what is not a default."""

from __future__ import annotations

from ppo_lm.cli.commands import COMMANDS, parser_of
from ppo_lm.cli.embedded_task import embedded_task
from ppo_lm.cli.options import EMBEDDED, read_named
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
    parser = Parser(prog, DESCRIPTION, "COMMAND [--config FILE] [--OPTION VALUE ...] [--changed]")
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=lambda parser, **_: parser)
    for command in COMMANDS:
        if command != "config" and isinstance(found := parser_of(command, f"ppo-lm {command}"), ConfigParser):
            commands.add_parser(command, help=COMMANDS[command], parser=_settings_parser(found, f"{prog} {command}"))
    return parser


def run(arguments: list[str], prog: str) -> None:
    """Print the settings of a command."""
    command = arguments[0] if arguments else "--help"
    parser = make_parser(prog)
    if command.startswith("-"):
        parser.parse(arguments or [command])
    found = parser_of(command, f"ppo-lm {command}") if command in COMMANDS else None
    if not isinstance(found, ConfigParser):
        parser.error(f"{command!r} is not a command with settings{did_you_mean(command, COMMANDS)}")
    parser = _settings_parser(found, f"{prog} {command}")
    options = parser.parse(arguments[1:])
    changed, files = options.pop("changed", False), options.pop("config", [])
    named = read_named(parser, files, options)
    if EMBEDDED in files and parser.task is not None:
        named = embedded_task(parser.task, parser.config, named) | named
    if named:
        parser.config(**named)  # raises all problems at once
    print(dump_changed(parser.config, named) if changed else dump_template(parser.config, named, command), end="")


def _settings_parser(parser: ConfigParser, prog: str) -> ConfigParser:
    return ConfigParser(parser.config, prog, DESCRIPTION, task=parser.task, general=(CHANGED,))

"""`ppo-lm completion`: what a shell needs to complete commands, options, their values and files with TAB."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ppo_lm.cli.commands import COMMANDS, add_commands, parser_of
from ppo_lm.cli.options import EMBEDDED
from ppo_lm.cli.parser import ConfigParser, Parser
from ppo_lm.config.fields import fields_of
from ppo_lm.config.files import embedded_settings

PROGRAM = "ppo-lm"


class Setup(NamedTuple):
    """How a shell's script is written to `file`, and the line of `startup` that loads it."""

    file: str
    command: str
    startup: str
    line: str


SHELLS = {
    "bash": Setup(
        file="~/.ppo-lm.bash",
        command="ppo-lm completion bash > ~/.ppo-lm.bash",
        startup="~/.bashrc",
        line="source ~/.ppo-lm.bash",
    ),
    "zsh": Setup(
        file="~/.zfunc/_ppo-lm",
        command="mkdir -p ~/.zfunc; ppo-lm completion zsh > ~/.zfunc/_ppo-lm",
        startup="~/.zshrc",
        line="fpath=(~/.zfunc $fpath); autoload -Uz compinit; compinit",
    ),
}
DESCRIPTION = """\
Print a script with which a shell completes commands, options, their values and
files at TAB. Write it to a file, again after an update of ppo-lm:

  {bash.command}
  {zsh.command}

Load it in every new shell, with a line in {bash.startup} or {zsh.startup}:

  {bash.line}
  {zsh.line}

It completes ppo-lm itself, in an activated environment, not `uv run ppo-lm`."""


def make_parser(prog: str) -> Parser:
    """The options of the command."""
    parser = Parser(prog, DESCRIPTION.format(**SHELLS), "bash|zsh", argparse.RawDescriptionHelpFormatter)
    group = parser.add_argument_group("Everyday options")
    group.add_argument("shell", choices=tuple(SHELLS), metavar="bash|zsh", help="Your shell.")
    parser.add_general_group()
    return parser


def run(arguments: list[str], prog: str) -> None:
    """Print the script."""
    shell = make_parser(prog).parse(arguments)["shell"]
    import shtab

    print(shtab.complete(_all_commands(_registered_names()), shell))


def _registered_names() -> dict[str, list[str]]:
    """The settings that name a registered part → the names."""
    from ppo_lm.advantage import ESTIMATORS
    from ppo_lm.optimisation.parts import OPTIMISERS, SCHEDULES
    from ppo_lm.rewards import REWARDS
    from ppo_lm.rollout import ENGINES
    from ppo_lm.tracking import RECORDERS
    from ppo_lm.training import POLICY_LOSSES, VALUE_LOSSES

    registries = (ESTIMATORS, POLICY_LOSSES, VALUE_LOSSES, OPTIMISERS, SCHEDULES, ENGINES, RECORDERS, REWARDS)
    names = {registry.role: registry.names for registry in registries}
    return names | dict.fromkeys(("monitor", "judge"), REWARDS.names)


def _all_commands(names: Mapping[str, Sequence[str]]) -> argparse.ArgumentParser:
    """One parser with all commands, whose actions say how `shtab` completes them."""
    root = argparse.ArgumentParser(PROGRAM)
    root.add_argument("--version", action="store_true", help="Print the version.")
    add_commands(root, {command: parser_of(command, f"{PROGRAM} {command}") for command in COMMANDS})
    _prepare(root, names)
    return root


def _prepare(parser: argparse.ArgumentParser, names: Mapping[str, Sequence[str]]) -> None:
    """Tell `shtab` what the value of each option of a parser, and of those in it, may be."""
    import shtab

    fields, built_in = {}, {}
    if isinstance(parser, ConfigParser):
        fields = fields_of(parser.config)
        if parser.task is not None:
            built_in = {name: [value] for name, value in embedded_settings(parser.task).items() if value == EMBEDDED}
            built_in["config"] = [EMBEDDED]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _prepare(inner, names)
            continue
        action.help = _first_sentence(action.help)
        field = fields.get(action.dest)
        words = [*names.get(action.dest, ()), *built_in.get(action.dest, ())]
        if field is not None and field.choices:
            action.choices = field.choices
        elif field is not None and field.is_switch:
            action.choices = ("true", "false")
            action.metavar = ":value"  # for zsh, which shtab does not tell that it may be left out
        elif field is None and action.metavar == "FOLDER":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar == "FILE" or (field is not None and field.takes_text):
            action.complete = _words_or_files(words) if words else shtab.FILE  # type: ignore[attr-defined]


def _words_or_files(words: Sequence[str]) -> dict[str, str | dict[str, str]]:
    """For `shtab`: a function of the shell that offers the words beside files."""
    name = "_ppo_lm_files_or_" + re.sub(r"\W", "_", "_".join(words))
    bash = f'{name}() {{\n  compgen -W {shlex.quote(" ".join(words))} -- "$1"\n  compgen -f -- "$1"\n}}'
    zsh = f"{name}() {{\n  _alternative 'words:name:({' '.join(words)})' 'files:file:_files'\n}}"
    return {"bash": name, "zsh": name, "preamble": {"bash": bash, "zsh": zsh}}


def _first_sentence(text: str | None) -> str | None:
    """A shell shows an option on one line."""
    return text if text is None or text == argparse.SUPPRESS else re.split(r"(?<=\.)\s", text)[0].removesuffix(".")

"""The commands. Each is a module of this package with two functions: `make_parser(prog)`, its options, and
`run(arguments, prog)`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from ppo_lm.distributed.place import find_place
from ppo_lm.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from ppo_lm.cli.parser import Parser

COMMANDS = {
    "sft": "supervised fine-tuning, from demonstrations",
    "reward": "train a reward model, from preferences",
    "value": "train a value model, from demonstrations and a reward",
    "plan": "predict the memory, time and layout of a PPO run",
    "train": "PPO, from prompts and a reward",
    "evaluate": "compare policies on the same prompts",
    "generate": "answer prompts, with one model or several side by side",
    "collect": "judge pairs of completions in a browser",
    "export": "adapter, merged model, value model and a model card, for others",
    "report": "show runs, down to single tokens, in one HTML file",
    "doctor": "check a PPO run for known signs of failure",
    "config": "write a file of settings to edit, or check one",
    "completion": "complete commands and options with TAB",
    "build-embedded": "build the small model that comes with the package",
}

TOGETHER = ("sft", "reward", "value", "train", "evaluate")  # these can work in several processes


def check_processes(command: str) -> None:
    """Raise `ConfigError` if this is one of several processes of a launcher, and the command works in one."""
    size = find_place().size
    if size > 1 and command in COMMANDS and command not in TOGETHER:
        raise ConfigError.of(
            f"ppo-lm {command} works in one process, but this was started as {size} (torchrun or the like); start it "
            "as ppo-lm"
        )


def module_of(command: str) -> ModuleType:
    """The module of a command, imported."""
    return importlib.import_module(f"ppo_lm.cli.{command.replace('-', '_')}")


def parser_of(command: str, prog: str) -> Parser:
    """The options of a command."""
    return module_of(command).make_parser(prog)


def add_commands(whole: argparse.ArgumentParser, parsers: Mapping[str, Parser]) -> None:
    """Make the parsers of commands the sub-parsers of another."""
    as_it_is = cast(Any, lambda parser, **_: parser)  # argparse would make each parser itself
    group = whole.add_subparsers(title="Commands", metavar="COMMAND", parser_class=as_it_is)
    for command, parser in parsers.items():
        group.add_parser(command, help=COMMANDS[command], parser=parser)

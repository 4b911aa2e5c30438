"""From the command line to a configuration: defaults, then files, then options."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from ppo_lm.cli.embedded_task import describe_toy_model, embedded_task
from ppo_lm.cli.parser import ConfigParser
from ppo_lm.config.fields import fields_of
from ppo_lm.config.files import dump_settings, read_settings
from ppo_lm.config.output_folder import free_folder
from ppo_lm.config.run_settings import WRITES_RUN, FolderSettings, OptionalFolderSettings
from ppo_lm.config.settings import Settings, with_current_names
from ppo_lm.errors import ConfigError
from ppo_lm.reading import user_path
from ppo_lm.terminal.pinned import readable
from ppo_lm.terminal.working import working

Config = TypeVar("Config", bound=Settings)
EMBEDDED = "embedded"  # as a file of settings: those of the embedded task


def read_config(parser: ConfigParser[Config], arguments: list[str]) -> Config:
    """A configuration from the command line; see `make_config`. Ends with exit code 2 if an option is unknown, with 0
    after `--help` and `--print_config`."""
    return make_config(parser, parser.parse(arguments))


def make_config(parser: ConfigParser[Config], options: dict[str, Any]) -> Config:
    """A configuration from the options that `parser` read. Prints what it decides: the model if none is named, and
    another folder if none is named and the default one is taken. Raises `ConfigError`."""
    config, task, options = parser.config, parser.task, dict(options)
    print_config, files = options.pop("print_config", False), options.pop("config", [])
    overwrite = options.pop("overwrite", False)
    task_by_default = task is not None and not files and not options.keys() & {"model_name", "models"}
    named, chosen = read_named(parser, files, options), {}
    if task is not None and (task_by_default or EMBEDDED in files):
        chosen = embedded_task(task, config, named)
    made = checked_config(config, chosen | named, files)
    if task_by_default:
        note(describe_toy_model(config, chosen, named))
    elif task is not None and "model_name" in fields_of(config) and "model_name" not in chosen | named:
        note(f"model_name is not set, so it is {fields_of(config)['model_name'].default}")
    if isinstance(made, WRITES_RUN) and "output_dir" not in named:
        made = dataclasses.replace(made, output_dir=_choose_folder(made, overwrite))
    if print_config:
        print(dump_settings(made), end="")
        raise SystemExit(0)
    return made


def checked_config(config: type[Config], values: dict[str, Any], files: list[str]) -> Config:
    """The configuration with these values. Raises one `ConfigError` with all problems, under the names of the files."""
    try:
        return config(**values)
    except ConfigError as error:
        raise ConfigError(error.problems, " and ".join(files)) from None


def read_named(parser: ConfigParser, files: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """What the files, the last one counting most, and the options that go over them set, by current names. Raises
    `ConfigError` for a file that cannot be read."""
    named: dict[str, Any] = {}
    for file in files:
        if file != EMBEDDED or parser.task is None:
            named |= with_current_names(parser.config, read_settings(user_path(file, "--config"), "--config"))
    return named | with_current_names(parser.config, options)


def _choose_folder(config: FolderSettings | OptionalFolderSettings, overwrite: bool) -> str:
    """The command's default folder or, unless a run in it may be overwritten, the next free name."""
    wanted = config.COMMAND_FOLDER if config.output_dir is None else config.output_dir
    folder = wanted if overwrite else str(free_folder(user_path(wanted, "output_dir")))
    if folder != wanted:
        note(f"{wanted} already holds a run, so output_dir is {folder}")
    return folder


def importing() -> AbstractContextManager[object]:
    """Show that the block imports what takes long."""
    return working("importing PyTorch and transformers")


def note(text: str) -> None:
    """Print on stderr what the program decided for the user."""
    print(readable(f"note: {text}", sys.stderr), file=sys.stderr)

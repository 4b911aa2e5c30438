"""From the command line to a configuration: defaults, then files, then options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TypeVar

from ppo_lm.cli.embedded_task import embedded_task
from ppo_lm.cli.parser import config_parser
from ppo_lm.config.fields import fields_of
from ppo_lm.config.files import dump_settings, read_settings
from ppo_lm.config.settings import Settings, with_current_names
from ppo_lm.errors import ConfigError

Config = TypeVar("Config", bound=Settings)


def read_config(
    config: type[Config], arguments: list[str], prog: str, description: str, task: str | None = None
) -> Config:
    """A `config` from the command line. `task`: the command's name, if it has settings for the embedded task.

    Raises `ConfigError`; ends with exit code 2 if an option is unknown, with 0 after `--help` and `--print_config`.
    """
    parser = config_parser(config, prog, description, embedded=task is not None, resumable=False)
    return make_config(config, parser.parse(arguments), task)


def read_run(
    config: type[Config], arguments: list[str], prog: str, description: str, task: str
) -> tuple[Config, Path | None]:
    """As `read_config`, and None; or, for `--resume FOLDER`, the settings of that run and its folder."""
    parser = config_parser(config, prog, description, embedded=True, resumable=True)
    options = parser.parse(arguments)
    folder = find_run(options) if "resume" in options else None
    if folder is None:
        made = make_config(config, options, task)
    else:
        made = config(**read_settings(folder / "config.yaml", "--resume"))
    hide_progress_bars()
    if folder is not None:
        check_resumable(folder)
    return made, folder


def make_config(config: type[Config], options: dict[str, Any], task: str | None) -> Config:
    """A `config` from parsed options. Says which model is used if none is named."""
    options = dict(options)
    print_config, files = options.pop("print_config", False), options.pop("config", [])
    task_by_default = task is not None and not files and not options.keys() & {"model_name", "models"}
    named: dict[str, Any] = {}
    for file in files:
        if file != "embedded" or task is None:
            named |= with_current_names(config, read_settings(Path(file).expanduser(), "--config"))
    named |= with_current_names(config, options)
    if task is not None and (task_by_default or "embedded" in files):
        named = embedded_task(task, config, named) | named
    made = config(**named)
    if task_by_default:
        note("no model is named, so this is the embedded task")
    elif task is not None and "model_name" in fields_of(config) and "model_name" not in named:
        note(f"model_name is not set, so it is {fields_of(config)['model_name'].default}")
    if print_config:
        print(dump_settings(made), end="")
        raise SystemExit(0)
    return made


def find_run(options: dict[str, Any]) -> Path:
    """The folder that `--resume` names. Raises `ConfigError` if it is no run's, or if another option is given."""
    if len(options) > 1:
        raise ConfigError(["--resume takes no other option: a resumed run keeps its settings"], "--resume")
    folder = Path(options["resume"]).expanduser()
    if not (folder / "config.yaml").is_file():
        raise ConfigError(
            [f"there is no run in {str(folder)!r}: it has no config.yaml; name the folder that the paused run printed"],
            "--resume",
        )
    return folder


def check_resumable(folder: Path) -> None:
    """Raise, before a model is loaded, if the run's folder is in use or has no usable checkpoint."""
    from ppo_lm.run import load_checkpoint
    from ppo_lm.tracking import lock_run_folder

    lock_run_folder(folder).release()
    load_checkpoint(folder)


def hide_progress_bars() -> None:
    """Load models without the progress bars of transformers."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def note(text: str) -> None:
    """Say on stderr what the program decided for the user."""
    print(f"note: {text}", file=sys.stderr)

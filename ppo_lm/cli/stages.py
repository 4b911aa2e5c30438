"""What the commands that run something share: settings from the command line, or a run to resume."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from ppo_lm.cli.options import importing, make_config
from ppo_lm.cli.parser import ConfigParser
from ppo_lm.config.fields import fields_of
from ppo_lm.config.files import read_settings
from ppo_lm.config.settings import Settings, with_current_names
from ppo_lm.config.stages import STAGES
from ppo_lm.errors import ConfigError
from ppo_lm.reading import user_path


class RunRequest(NamedTuple):
    """What the command line asks for. `resume`: the folder of the run to resume; `json`: print the result as JSON."""

    config: Any
    resume: Path | None
    overwrite: bool
    allow_changes: bool
    json: bool

    def options(self) -> dict[str, Any]:
        """As the stages take them."""
        return {"resume": self.resume, "overwrite": self.overwrite, "allow_changes": self.allow_changes}


def read_run(parser: ConfigParser, arguments: list[str]) -> RunRequest:
    """The run that `--resume FOLDER` names, or a new one with the settings of `make_config`. Raises `ConfigError`
    unless its folder can be used."""
    config, options = parser.config, parser.parse(arguments)
    overwrite, allow_changes = options.get("overwrite", False), options.pop("allow_changes", False)
    json = options.pop("json", False)
    if allow_changes and "resume" not in options:
        raise ConfigError.of("--allow_changes belongs to --resume; give the folder of an unfinished run")
    if "resume" in options:
        with importing():
            from ppo_lm.distributed import join

        folder = user_path(options.pop("resume"), "--resume")
        changed = with_current_names(config, options)
        check_changed(config, changed, allow_changes)
        made = join().once(lambda: read_unfinished(config, find_run(str(folder)), changed))
    else:
        folder, made = None, make_config(parser, options)
    return RunRequest(made, folder, overwrite, allow_changes, json)


def read_unfinished(config: type[Settings], folder: Path, changed: dict[str, Any]) -> Settings:
    """The settings of the run in `folder`, with what is `changed`. Raises a `UserError` if it cannot be resumed."""
    saved = read_settings(folder / "config.yaml", "--resume")
    check_command(config, saved, folder)
    made = config(**(with_current_names(config, saved) | changed))
    check_resumable(folder, made)
    return made


def find_run(name: str) -> Path:
    """The folder that `--resume` names. Raises `ConfigError` if it does not hold a run."""
    folder = user_path(name, "--resume")
    if not (folder / "config.yaml").is_file():
        raise ConfigError(
            [f"there is no run in {str(folder)!r}: it has no config.yaml; give the folder that the paused run printed"],
            "--resume",
        )
    return folder


def check_command(config: type[Settings], saved: Collection[str], folder: Path) -> None:
    """Raise `ConfigError` if another command has the fields of a run's saved settings, and this one does not."""
    if fields_of(config).keys() >= set(saved):
        return
    for command, other in STAGES.items():
        if other is not config and fields_of(other).keys() >= set(saved):
            this = f"{str(folder)!r} holds a run of ppo-lm {command}"
            raise ConfigError([f"{this}; continue it with: ppo-lm {command} --resume {folder}"], "--resume")


def check_changed(config: type[Settings], changed: Collection[str], allow_changes: bool) -> None:
    """Raise `ConfigError` unless a resumed run may change these settings: its length and what no result depends on, or
    with `allow_changes` all but its folder."""
    fields = fields_of(config)
    lengths = [f"--{name}" for name, field in fields.items() if field.sets_length]
    problems = []
    for name in changed:
        if name not in fields or name == "output_dir":
            problems.append(f"--{name} does not go with --resume: a resumed run keeps its folder and its settings")
        elif not (allow_changes or fields[name].may_change or fields[name].sets_length):
            problems.append(
                f"--{name} would change the results, so a resumed run keeps it; use --allow_changes to set it "
                f"anyway ({' and '.join(lengths)} can always be set)"
            )
    if problems:
        raise ConfigError(problems, "--resume")


def check_resumable(folder: Path, config: Settings) -> None:
    """Raise, before a model is loaded, if the run's folder is in use or has no usable checkpoint, or if the run is
    finished and `config` does not extend it."""
    from ppo_lm.run import load_checkpoint, lock_run_folder
    from ppo_lm.run.resume import check_unfinished

    lock_run_folder(folder).release()
    check_unfinished(config, load_checkpoint(folder)[0], folder)

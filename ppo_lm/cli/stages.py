"""What the commands that run something share: settings from the command line, or a run to resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ppo_lm.cli.options import make_config
from ppo_lm.cli.parser import config_parser
from ppo_lm.config.files import read_settings
from ppo_lm.config.settings import Settings
from ppo_lm.errors import ConfigError
from ppo_lm.reading import user_path


class RunRequest(NamedTuple):
    """What the command line asks for. `resume`: the folder of the run to resume."""

    config: Any
    resume: Path | None
    overwrite: bool
    allow_changes: bool

    def options(self) -> dict[str, Any]:
        """As the stages take them."""
        return {"resume": self.resume, "overwrite": self.overwrite, "allow_changes": self.allow_changes}


def read_run(
    config: type[Settings], arguments: list[str], prog: str, description: str, task: str, *, resumable: bool = True
) -> RunRequest:
    """The run that `--resume FOLDER` names, or a new one with the settings of `make_config`. Raises `ConfigError`
    unless its folder can be used."""
    options = config_parser(config, prog, description, embedded=True, resumable=resumable).parse(arguments)
    overwrite, allow_changes = options.get("overwrite", False), options.pop("allow_changes", False)
    if allow_changes and "resume" not in options:
        raise ConfigError.of("--allow_changes belongs to --resume; give the folder of an unfinished run")
    if "resume" in options:
        folder = find_run(options)
        made = config(**read_settings(folder / "config.yaml", "--resume"))
        check_resumable(folder)
    else:
        folder, made = None, make_config(config, options, task)
    from ppo_lm.run import check_one_process

    check_one_process()
    hide_progress_bars()
    return RunRequest(made, folder, overwrite, allow_changes)


def find_run(options: dict[str, Any]) -> Path:
    """The folder that `--resume` names. Raises `ConfigError` if it does not hold a run, or if another option is
    given."""
    if len(options) > 1:
        raise ConfigError(
            ["--resume takes no option but --allow_changes: a resumed run keeps its settings"], "--resume"
        )
    folder = user_path(options["resume"], "--resume")
    if not (folder / "config.yaml").is_file():
        raise ConfigError(
            [f"there is no run in {str(folder)!r}: it has no config.yaml; give the folder that the paused run printed"],
            "--resume",
        )
    return folder


def check_resumable(folder: Path) -> None:
    """Raise, before a model is loaded, if the run's folder is in use or has no usable checkpoint."""
    from ppo_lm.run import load_checkpoint, lock_run_folder

    lock_run_folder(folder).release()
    load_checkpoint(folder)


def hide_progress_bars() -> None:
    """Load models without the progress bars of transformers."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

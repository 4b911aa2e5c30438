"""What the commands of the four stages share: settings from the command line, or a run to resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ppo_lm.cli.options import Config, make_config
from ppo_lm.cli.parser import config_parser
from ppo_lm.config.files import read_settings
from ppo_lm.errors import ConfigError


def read_run(
    config: type[Config], arguments: list[str], prog: str, description: str, task: str
) -> tuple[Config, Path | None]:
    """The settings of the run that `--resume FOLDER` names, and its folder; else those of `read_config`, and None."""
    parser = config_parser(config, prog, description, embedded=True, resumable=True)
    options = parser.parse(arguments)
    if "resume" in options:
        folder = find_run(options)
        made = config(**read_settings(folder / "config.yaml", "--resume"))
        check_resumable(folder)
    else:
        folder, made = None, make_config(config, options, task)
    hide_progress_bars()
    return made, folder


def find_run(options: dict[str, Any]) -> Path:
    """The folder that `--resume` names. Raises `ConfigError` if it does not hold a run, or if another option is
    given."""
    if len(options) > 1:
        raise ConfigError(["--resume takes no other option: a resumed run keeps its settings"], "--resume")
    folder = Path(options["resume"]).expanduser()
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

"""The folder of a run: created, locked against other processes, described by its config.yaml."""

from __future__ import annotations

import dataclasses
import os
import shlex
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ppo_lm.config.files import dump_settings
from ppo_lm.config.output_folder import (
    ENVIRONMENT,
    HELD_OUT,
    LOCK,
    SAMPLES,
    TOKENS,
    TRACEBACK,
    TRACKERS,
    UNFINISHED,
    holds_files,
)
from ppo_lm.config.run_settings import FolderSettings, OptionalFolderSettings
from ppo_lm.config.settings import Settings
from ppo_lm.distributed import find_place
from ppo_lm.errors import ConfigError, StorageError, UserError, writing
from ppo_lm.health.rows import METRICS
from ppo_lm.reading import as_path, user_path
from ppo_lm.run.checkpoint import list_checkpoints
from ppo_lm.saving import remove, write_text

CONFIG = "config.yaml"
TRAINED_PROMPTS = "trained_prompts.json"
ANSWERS = "answers.jsonl"  # a person's, from `ppo-lm collect`
RUN_FILES = (  # whatever a run of any stage writes; the tests of every stage check that nothing is missing
    "data_report.json",
    ENVIRONMENT,
    METRICS,
    SAMPLES,
    HELD_OUT,
    TOKENS,
    TRACKERS,
    "tensorboard",
    "wandb",
    "mlflow",
    TRAINED_PROMPTS,
    TRACEBACK,
    "checkpoints",
    "dropped",
    "best",
    "adapter",
    "merged",
    "reward",
    "value",
    "scores.json",
    "report.json",
    "report.md",
    "results.json",
    "completions.jsonl",
    "learning_curve.png",
    "report.html",
    "export",
    "reward_report.png",
    "comparison.png",
    CONFIG,  # is removed last: a folder without it holds no run
)
MORE_EXPORTS = "export-[0-9]*"  # `free_folder` numbers them


def check_output_dir(
    config: FolderSettings | OptionalFolderSettings, resume: object = None, overwrite: bool = False
) -> None:
    """Raise `ConfigError` unless the folder `config.output_dir`, if any, can be written to and, for a new run (`resume`
    is None), is free or may be replaced (`overwrite`)."""
    if config.output_dir is None or resume is not None or not find_place().is_first:
        return
    folder = user_path(config.output_dir, "output_dir")
    check_writable(config.output_dir)
    _check_free(folder, overwrite)
    inputs = _inputs_within(config, folder) if overwrite else []
    if inputs:
        raise ConfigError.of(
            f"output_dir {config.output_dir!r} cannot be overwritten, because {' and '.join(inputs)} is in it; choose "
            "another folder"
        )


def check_writable(output_dir: str) -> None:
    """Raise `ConfigError` unless the folder exists or can be created, and is writable."""
    folder = user_path(output_dir, "output_dir")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError([f"output_dir is {output_dir!r}, but {there} is a file; choose a folder"])
    if not os.access(there, os.W_OK):
        raise ConfigError([f"output_dir is {output_dir!r}, but {there} is not writable; choose another folder"])


def make_run_folder(folder: Path, overwrite: bool = False) -> FileLock:
    """Create and lock the folder of a new run. With `overwrite`, a run in it is removed; other files stay. Raises
    `ConfigError` if the folder is not free, `UserError` if another process is using it."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = lock_run_folder(folder)
    try:
        _check_free(folder, overwrite)
        remove_run(folder)
    except BaseException:
        unlock(lock)
        raise
    return lock


def remove_run(folder: Path) -> None:
    """Remove whatever a run wrote into its folder."""
    with writing(folder):
        for path in (*folder.glob(UNFINISHED), *folder.glob(MORE_EXPORTS), *(folder / name for name in RUN_FILES)):
            remove(path)


def _check_free(folder: Path, overwrite: bool) -> None:
    if not holds_files(folder):
        return
    if (folder / ANSWERS).exists():
        raise ConfigError.of(f"output_dir {str(folder)!r} holds answers of `ppo-lm collect`; choose another folder")
    if not (folder / CONFIG).exists():
        raise ConfigError.of(f"output_dir {str(folder)!r} is not empty, and holds no run; choose another folder")
    if overwrite:
        return
    resume = f", continue it with --resume {shlex.quote(str(folder))}" if list_checkpoints(folder) else ""
    raise ConfigError.of(
        f"output_dir {str(folder)!r} already holds a run; choose another folder{resume}, or replace it with --overwrite"
    )


def _inputs_within(config: FolderSettings | OptionalFolderSettings, folder: Path) -> list[str]:
    """The settings that name a file or folder within `folder`."""
    found, folder = [], folder.resolve()
    for name, value in dataclasses.asdict(config).items():
        for text in value if isinstance(value, list) else [value]:
            if name == "output_dir" or not isinstance(text, str):
                continue
            if any(_is_within(part, folder) for part in (text, text.rpartition(":")[0]) if part):
                found.append(name)
    return found


def _is_within(text: str, folder: Path) -> bool:
    """Whether `text` is the path of something that exists within `folder`."""
    path = as_path(text)
    return path is not None and path.exists() and path.resolve().is_relative_to(folder)


def lock_run_folder(folder: Path) -> FileLock:
    """Lock the folder of a run to resume. Raises `UserError` if another process is using it."""
    lock = _lock(folder)
    if lock is None:
        raise UserError(f"{folder} is in use by another process; wait until it ends, or stop it")
    return lock


def unlock(lock: FileLock) -> None:
    """Let other processes use the folder."""
    with suppress(OSError):  # Windows cannot delete an open file
        os.unlink(lock.lock_file)
    lock.release()


def write_config(folder: Path, config: Settings) -> None:
    """Write `config.yaml`, which `--config` reads."""
    write_text(folder / CONFIG, dump_settings(config))


def _lock(folder: Path) -> FileLock | None:
    """Lock the folder until `release`, or until the process ends; None if another process holds it."""
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        with writing(Path(lock.lock_file)):
            lock.acquire()
    except StorageError as error:
        if isinstance(error.__cause__, Timeout):  # which is an OSError
            return None
        raise
    return lock

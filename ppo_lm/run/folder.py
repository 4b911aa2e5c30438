"""The folder of a run: created, locked against other processes, described by its config.yaml."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ppo_lm.config.files import dump_settings
from ppo_lm.config.settings import Settings
from ppo_lm.errors import ConfigError, StorageError, UserError, writing
from ppo_lm.tracking.files import write_text

LOCK = ".lock"


def check_output_dir(output_dir: str) -> None:
    """Raise `ConfigError` unless the folder exists or can be created, and is writable."""
    folder = Path(output_dir).expanduser()
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError([f"output_dir is {output_dir!r}, but {there} is a file; choose a folder"])
    if not os.access(there, os.W_OK):
        raise ConfigError([f"output_dir is {output_dir!r}, but {there} is not writable; choose another folder"])


def make_run_folder(wanted: Path) -> tuple[Path, FileLock]:
    """Create and lock `wanted`, or `wanted-2`, `wanted-3`, … if it already holds a run: no run overwrites another."""
    number = 1
    while True:
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if not _is_taken(folder):
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            lock = _lock(folder)
            if lock and not _is_taken(folder):
                return folder, lock
        number += 1


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
    write_text(folder / "config.yaml", dump_settings(config))


def _is_taken(folder: Path) -> bool:
    return folder.exists() and any(path.name != LOCK for path in folder.iterdir())


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

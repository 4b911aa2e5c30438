"""Paths that users write."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from ppo_lm.errors import ConfigError, UserError

SHOWN = 80  # characters of a path in messages


def user_path(text: str | Path, setting: str, error: Callable[[str], UserError] = ConfigError.of) -> Path:
    """The path that `text`, the value of `setting`, names, with ``~`` as the home folder; there need not be anything.
    Raises `error(message)` if it cannot be a path or cannot be looked at, so that `exists`, `is_dir` and `is_file` can
    be asked without fear."""
    path, problem = _look_at(str(text))
    if path is None:
        shown = repr(str(text))
        shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"
        raise error(f"{setting} is {shown}, {problem}")
    return path


def as_path(text: str) -> Path | None:
    """Like `user_path`, for a text that may name something other than a file: None if it cannot be a path."""
    return _look_at(text)[0]


def _look_at(text: str) -> tuple[Path | None, str]:
    """The path, or None and what is wrong with it, worded to follow its text."""
    if not text.strip():
        return None, "which is empty; name a file or folder"
    try:
        text.encode()
        path = Path(text).expanduser()
        os.stat(path)
    except UnicodeEncodeError:
        return None, "which is not UTF-8; rename the file or folder"
    except RuntimeError:
        return None, "but there is no such user; write the whole path instead of ~"
    except ValueError:
        return None, "which contains a null character; check how it is quoted"
    except OSError as error:
        return _explain(Path(text).expanduser(), error)
    if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
        return None, "which is a folder that you may not read; change its permissions"
    return path, ""


def _explain(path: Path, error: OSError) -> tuple[Path | None, str]:
    if error.errno == errno.ENAMETOOLONG:
        return None, "which is too long for a path; a name has at most 255 bytes"
    if error.errno == errno.ELOOP:
        return None, "which is a symbolic link that leads back to itself; remove or correct it"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if os.path.islink(path):
            return None, f"which is a symbolic link to {os.readlink(path)!r}, where there is nothing; correct it"
        return path, ""
    return None, f"which cannot be looked at: {error.strerror}; check its permissions"

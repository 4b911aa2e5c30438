"""Load a person's own reward function."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from ppo_lm.errors import RewardError


def load_function(spec: str, role: str = "reward") -> Callable:
    """Load `package.module:function` or `path/file.py:function`. Raises `RewardError` that says which part cannot be found.

    `role` is the setting that named it, for the message.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise RewardError(f"{role} {spec!r}: write module:function or path/file.py:function, or the folder of a reward model that exists")
    module = _load_file(spec, Path(place).expanduser(), role) if place.endswith(".py") else _import(spec, place, role)
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise RewardError(f"{role} {spec!r}: {place} has no function {name!r}; it has {', '.join(known) or 'none'}")
    return function


def _load_file(spec: str, file: Path, role: str):
    if not file.is_file():
        raise RewardError(f"{role} {spec!r}: there is no file {file}")
    name = f"ppo_lm_user_{file.stem}"
    loader = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(loader)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    sys.path.insert(0, str(file.resolve().parent))  # so that the file can import its neighbours, as a script can
    try:
        loader.loader.exec_module(module)
    except Exception as error:
        raise RewardError(f"{role} {spec!r}: {file} raised {type(error).__name__} while it was loaded: {error}") from error
    return module


def _import(spec: str, name: str, role: str):
    if "" not in sys.path and "." not in sys.path:
        sys.path.insert(0, "")  # a module next to where the command was typed, as `python -m` finds it
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RewardError(f"{role} {spec!r}: there is no module {error.name!r}; check its name, or give path/file.py:function") from None
    except Exception as error:
        raise RewardError(f"{role} {spec!r}: module {name} raised {type(error).__name__} while it was imported: {error}") from error

"""Load a person's own reward function."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from ppo_lm.errors import RewardError


def load_function(spec: str) -> Callable:
    """Load `package.module:function` or `path/file.py:function`. Raises `RewardError` that says which part cannot be found."""
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise RewardError(f"reward {spec!r}: write module:function or path/file.py:function, or the folder of a reward model that exists")
    module = _load_file(spec, Path(place).expanduser()) if place.endswith(".py") else _import(spec, place)
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise RewardError(f"reward {spec!r}: {place} has no function {name!r}; it has {', '.join(known) or 'none'}")
    return function


def _load_file(spec: str, file: Path):
    if not file.is_file():
        raise RewardError(f"reward {spec!r}: there is no file {file}")
    loader = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(loader)
    try:
        loader.loader.exec_module(module)
    except Exception as error:
        raise RewardError(f"reward {spec!r}: {file} raised {type(error).__name__} while it was loaded: {error}") from error
    return module


def _import(spec: str, name: str):
    if "" not in sys.path and "." not in sys.path:
        sys.path.insert(0, "")  # a module next to where the command was typed, as `python -m` finds it
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RewardError(f"reward {spec!r}: there is no module {error.name!r}; check its name, or give path/file.py:function") from None
    except Exception as error:
        raise RewardError(f"reward {spec!r}: module {name} raised {type(error).__name__} while it was imported: {error}") from error

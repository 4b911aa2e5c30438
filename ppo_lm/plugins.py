"""Parts that are chosen by name: a registered name, or your own part as `module:name` or `path/file.py:name`."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

from ppo_lm.errors import ConfigError, UserError
from ppo_lm.reading import user_path
from ppo_lm.user_code import user_code

Part = TypeVar("Part")
Entry = TypeVar("Entry")  # a subtype of Part
WRITTEN = "__ppo_lm_written__"  # when the file of a loaded module was last changed


class Registry(Generic[Part]):
    """The parts of one kind, by name. `role` is the setting that names one, for error messages; `kind` the class that
    parts must be instances of, if any.

    Example::

        ESTIMATORS: Registry[Estimator] = Registry("advantage_estimator", Estimator)
        ESTIMATORS.register("mine")(Estimator(add_my_advantages))
        ESTIMATORS.find("mine"), ESTIMATORS.find("my_file.py:mine")
    """

    def __init__(self, role: str, kind: type[Part] | None = None):
        self.role, self.kind = role, kind
        self._parts: dict[str, Part] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """A decorator that registers what it decorates, unchanged. Raises `ValueError` if the name is taken."""

        def add(part: Entry) -> Entry:
            if name in self._parts and self._origin(part) != self._origin(self._parts[name]):
                raise ValueError(f"{self.role} {name!r} is already registered; choose another name")
            self._parts[name] = cast("Part", part)  # replaced if its file was changed and reloaded
            return part

        return add

    @staticmethod
    def _origin(part: Any) -> tuple[str | None, str | None]:
        """Where a class or function was defined; unique for any other object."""
        return getattr(part, "__module__", None), getattr(part, "__qualname__", str(id(part)))

    @property
    def names(self) -> list[str]:
        """The registered names, in order of registration."""
        return list(self._parts)

    def find(self, spec: str) -> Part:
        """The part that a name or `module:name` refers to. Raises `ConfigError` if there is none, or if it is of the
        wrong kind."""
        if spec in self._parts:
            return self._parts[spec]
        if ":" in spec:
            return self._checked(spec, load_object(spec, self.role, ConfigError.of))
        near = difflib.get_close_matches(spec, self.names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "or give your own as module:name or path/file.py:name"
        raise ConfigError([f"{self.role} is {spec!r}; it must be one of {', '.join(self.names)}; {hint}"])

    def _checked(self, spec: str, part: Any) -> Part:
        if self.kind is not None and not isinstance(part, self.kind):
            raise ConfigError.of(
                f"{self.role} {spec!r} is of type {type(part).__name__}; it must be an instance of "
                f"{self.kind.__module__}.{self.kind.__name__}"
            )
        return part


def load_object(spec: str, role: str, error: Callable[[str], UserError]) -> Any:
    """Import `package.module:name` or `path/file.py:name`. Raises `error(message)`, where the message says which part
    of `spec` cannot be found. `role` is the setting that named it."""
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise error(f"{role} {spec!r}: write module:name or path/file.py:name")
    if place.endswith(".py"):
        module = _load_file(spec, user_path(place, role, error), role, error)
    else:
        module = _import_module(spec, place, role, error)
    if not hasattr(module, name):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise error(f"{role} {spec!r}: {place} has no function {name!r}; it has {', '.join(known) or 'none'}")
    return getattr(module, name)


def _load_file(spec: str, file: Path, role: str, error: Callable[[str], UserError]) -> ModuleType:
    """The module in a file, executed again only if the file has changed."""
    if not file.is_file():
        raise error(f"{role} {spec!r}: there is no file {file}")
    place, written = file.resolve(), file.stat().st_mtime_ns
    name = f"ppo_lm_user_{file.stem}_{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, WRITTEN, None) == written:
        return loaded
    loader = importlib.util.spec_from_file_location(name, file)
    assert loader is not None and loader.loader is not None
    module = importlib.util.module_from_spec(loader)
    sys.modules[name] = module  # dataclasses and pickle look up a class's module there
    sys.path.insert(0, str(place.parent))  # so that the file can import its neighbours, as a script can
    try:
        with user_code(f"{role} {spec!r}: {file}", "while it was loaded", error):
            loader.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    setattr(module, WRITTEN, written)
    return module


def _import_module(spec: str, name: str, role: str, error: Callable[[str], UserError]) -> ModuleType:
    if "" not in sys.path and "." not in sys.path:
        sys.path.insert(0, "")  # find modules in the current folder, as `python -m` does
    with user_code(f"{role} {spec!r}: module {name}", "while it was imported", error):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as problem:
            raise error(
                f"{role} {spec!r}: there is no module {problem.name!r}; check its name, or give path/file.py:name"
            ) from None

"""The base of every configuration: values are checked when it is made, and all problems are reported at once. Imports
no torch."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import sys
from collections.abc import Collection, Iterable
from typing import Any, ClassVar, TypeVar

from ppo_lm.config.fields import fields_of
from ppo_lm.errors import ConfigError

Config = TypeVar("Config", bound="Settings")


@dataclasses.dataclass(kw_only=True)
class Settings:
    """A subclass is a dataclass: each field has a default, a type from `field_types`, and its help underneath.

    Example::

        @checked
        @dataclasses.dataclass(kw_only=True)
        class MyConfig(ModelSettings):
            SAMPLING = Topic("Sampling")

            top_k: NonNegativeInt = 50
            \"\"\"Sample only from the k most likely tokens; 0 for all.\"\"\"
    """

    EVERYDAY: ClassVar[tuple[str, ...]] = ()
    """The fields that `--help` lists first."""

    def problems(self) -> list[str]:
        """A sentence for everything that is wrong; empty if nothing is."""
        checks = [field.problem(getattr(self, name)) for name, field in fields_of(type(self)).items()]
        return [problem for problem in checks if problem] or self.clashes()

    def clashes(self) -> list[str]:
        """A sentence for each set of values that do not go together; asked only when each is good by itself."""
        return []


def checked(cls: type[Config]) -> type[Config]:
    """Make a dataclass of settings take former names and check its values. It raises `ConfigError` with all problems,
    unknown fields included."""
    initialise = cls.__init__

    @functools.wraps(initialise)
    def initialise_and_check(self: Config, **settings: Any) -> None:
        settings = with_current_names(cls, settings)
        known = fields_of(cls)
        unknown = [f"there is no field {name!r}{did_you_mean(name, known)}" for name in settings if name not in known]
        initialise(self, **{name: value for name, value in settings.items() if name in known})
        problems = [*unknown, *self.problems()]
        if problems:
            raise ConfigError(problems, cls.__name__)

    cls.__init__ = initialise_and_check
    return cls


def with_current_names(cls: type[Settings], settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` with each former name of a field replaced, which is said once on stderr. Raises `ConfigError` if a
    field has both its names in it."""
    former = {field.former_name: name for name, field in fields_of(cls).items() if field.former_name in settings}
    both = [f"{old} is the former name of {new}; set only {new}" for old, new in former.items() if new in settings]
    if both:
        raise ConfigError(both, cls.__name__)
    for old, new in former.items():
        _say_renamed(old, new)
    return {former.get(name, name): value for name, value in settings.items()}


def differences(now: dict[str, Any], then: dict[str, Any], may_change: Collection[str]) -> list[str]:
    """A phrase for each setting that is not what it was, except those that may change. A setting that the version which
    wrote `then` did not have is not compared."""
    return [
        f"{name} was {then[name]!r} and is {now[name]!r}"
        for name in now
        if name not in may_change and name in then and now[name] != then[name]
    ]


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence about an unknown name: the nearest known one, if any is near, with `prefix` before it."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {prefix + near[0]!r}?" if near else "; `--help` lists them"


@functools.cache
def _say_renamed(old: str, new: str) -> None:
    print(f"note: {old} is now called {new}; the old name works in this version only", file=sys.stderr)

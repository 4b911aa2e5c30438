"""The base of every configuration: values are checked when it is made, and all problems are reported at once. Does
not import torch."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Collection
from typing import Any, ClassVar, TypeVar

from ppo_lm.config.fields import fields_of
from ppo_lm.config.other_names import did_you_mean
from ppo_lm.errors import ConfigError

Config = TypeVar("Config", bound="Settings")


@dataclasses.dataclass(kw_only=True)
class Settings:
    """A subclass is a dataclass: each field has a default, a type from `field_types`, and a docstring that is its help
    text.

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

    POSITIONAL: ClassVar[str | None] = None
    """The field whose value may come before all options, without a name: `ppo-lm generate MODEL`."""

    def problems(self) -> list[str]:
        """One sentence per problem; empty if there is none."""
        checks = [field.problem(getattr(self, name)) for name, field in fields_of(type(self)).items()]
        return [problem for problem in checks if problem] or self.clashes()

    def clashes(self) -> list[str]:
        """One sentence per conflict between values; only called when each value is valid by itself."""
        return []


def checked(cls: type[Config]) -> type[Config]:
    """Make a settings dataclass accept former names and check its values. It raises `ConfigError` with all problems,
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
    """`settings` with former field names replaced, noted once on stderr. Raises `ConfigError` if a field is given under
    both names."""
    former = {field.former_name: name for name, field in fields_of(cls).items() if field.former_name in settings}
    both = [f"{old} is the former name of {new}; set only {new}" for old, new in former.items() if new in settings]
    if both:
        raise ConfigError(both, cls.__name__)
    for old, new in former.items():
        _say_renamed(old, new)
    return {former.get(name, name): value for name, value in settings.items()}


def differences(now: dict[str, Any], then: dict[str, Any], may_change: Collection[str]) -> list[str]:
    """A phrase for each setting that has changed, except those that may. Settings missing from `then`, written by an
    older version, are not compared."""
    return [
        f"{name} was {then[name]!r} and is {now[name]!r}"
        for name in now
        if name not in may_change and name in then and now[name] != then[name]
    ]


@functools.cache
def _say_renamed(old: str, new: str) -> None:
    print(f"note: {old} is now called {new}; the old name works in this version only", file=sys.stderr)

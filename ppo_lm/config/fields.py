"""What a configuration's class says about its fields: types, bounds, topics, former names and help."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import math
import textwrap
import types
import typing
from typing import Annotated, Any, Literal

from ppo_lm.config.field_types import FormerName, MayChange, Rule, SetsLength, Topic

SINGULAR = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
LONGEST_SHOWN = 200  # characters of a value
PLURAL = {float: "finite numbers", str: "texts"}


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a configuration, as its type hint describes it."""

    name: str
    default: Any
    topic: Topic
    kinds: tuple[Any, ...]
    """The types that its value may have, without None and without bounds."""
    optional: bool
    """Whether the value may be None."""
    rules: tuple[Rule, ...]
    former_name: str | None
    may_change: bool
    """Whether a resumed run may change it, because no result depends on it."""
    sets_length: bool
    """Whether it sets how many steps a run has."""

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that a `Literal` allows; empty for any other type."""
        return tuple(
            value for kind in self.kinds if typing.get_origin(kind) is Literal for value in typing.get_args(kind)
        )

    @property
    def is_list(self) -> bool:
        """Whether the value may be a list."""
        return any(typing.get_origin(kind) is list for kind in self.kinds)

    @property
    def is_switch(self) -> bool:
        """Whether the value is true or false."""
        return self.kinds == (bool,)

    @property
    def takes_text(self) -> bool:
        """Whether the value may be any text, or a list of texts."""
        return str in self.kinds or list[str] in self.kinds

    def problem(self, value: object) -> str | None:
        """A sentence if `value` has the wrong type or is out of bounds."""
        if value is None and self.optional:
            return None
        if _is_too_large(value):
            return f"{self.name} is {_shown(value)}; it must be below 2^63"
        if not any(_fits(value, kind) for kind in self.kinds):
            return f"{self.name} is {_shown(value)}; it must be {' or '.join(map(_in_words, self.kinds))}"
        broken = [rule.words for rule in self.rules if not rule.holds(value)]
        return f"{self.name} is {_shown(value)}; it must {' and '.join(broken)}" if broken else None


@functools.cache
def fields_of(config: type) -> dict[str, Field]:
    """The fields of a configuration class, by name."""
    hints, topics = typing.get_type_hints(config, include_extras=True), _topics(config)
    fields = {}
    for field in dataclasses.fields(config):
        kinds, extras = _unwrap(hints[field.name])
        former = [extra.name for extra in extras if isinstance(extra, FormerName)]
        fields[field.name] = Field(
            name=field.name,
            default=field.default,
            topic=topics[field.name],
            kinds=tuple(kind for kind in kinds if kind is not types.NoneType),
            optional=types.NoneType in kinds,
            rules=tuple(extra for extra in extras if isinstance(extra, Rule)),
            former_name=former[0] if former else None,
            may_change=any(isinstance(extra, MayChange) for extra in extras),
            sets_length=any(isinstance(extra, SetsLength) for extra in extras),
        )
    return fields


def by_heading(config: type) -> dict[str, list[Field]]:
    """The fields of a configuration class under the headings of `--help`: everyday ones, then the others by topic."""
    fields = fields_of(config)
    found = {"Everyday options": [fields[name] for name in config.EVERYDAY]}
    for topic in Topic:
        others = [field for name, field in fields.items() if field.topic is topic and name not in config.EVERYDAY]
        if others:
            found[topic.value] = others
    return found


def help_texts(config: type) -> dict[str, str]:
    """The docstring under each field, on one line, by name. Reads the source."""
    found, names = {}, {field.name for field in dataclasses.fields(config)}
    for cls in reversed(config.__mro__[:-1]):
        definition = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(definition, ast.ClassDef)
        for field, after in itertools.pairwise(definition.body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and field.target.id in names
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                found[field.target.id] = " ".join(str(after.value.value).split())
    return found


def _topics(config: type) -> dict[str, Topic]:
    """The topic above each field in its class body. A field redefined in a subclass has the subclass's topic."""
    found = {}
    for cls in reversed(config.__mro__):
        topic = None
        for name, value in vars(cls).items():
            if isinstance(value, Topic):
                topic = value
            elif topic is not None:
                found[name] = topic
    return found


def _unwrap(hint: Any) -> tuple[list[Any], list[Any]]:
    """The types that a hint allows, and the metadata of its `Annotated` parts."""
    if typing.get_origin(hint) is Annotated:
        inner, *extras = typing.get_args(hint)
        kinds, more = _unwrap(inner)
        return kinds, more + extras
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [_unwrap(part) for part in typing.get_args(hint)]
        return [kind for kinds, _ in parts for kind in kinds], [extra for _, extras in parts for extra in extras]
    return [hint], []


def _fits(value: object, kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return isinstance(value, str) and value in typing.get_args(kind)
    if typing.get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(item, typing.get_args(kind)[0]) for item in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _is_too_large(value: object) -> bool:
    """Whether it is, or lists, a whole number that torch cannot take."""
    numbers = value if isinstance(value, list) else [value]
    return any(isinstance(number, int) and abs(number) >= 2**63 for number in numbers)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python does not write out a number with thousands of digits
        return "too large to show"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _in_words(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    if typing.get_origin(kind) is list:
        return f"a list of {PLURAL[typing.get_args(kind)[0]]}"
    return SINGULAR[kind]

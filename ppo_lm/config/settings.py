"""What every configuration shares: the fields of the model, and checks that report all problems at once. Imports no
torch."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from ppo_lm.errors import ConfigError


class Rule(NamedTuple):
    """What a value must be, in words that follow "it must be", and the test of it."""

    words: str
    holds: Callable[[Any], bool]


AT_LEAST_ONE = Rule("at least 1", lambda value: value >= 1)
NOT_NEGATIVE = Rule("0 or more", lambda value: value >= 0)
POSITIVE = Rule("above 0", lambda value: value > 0)
SHARE = Rule("between 0 and 1", lambda value: 0 <= value <= 1)
PROBABILITY = Rule("above 0 and at most 1", lambda value: 0 < value <= 1)
OFF_OR_ABOVE_ONE = Rule("0, for off, or above 1", lambda value: value == 0 or value > 1)
BELOW_ONE = Rule("at least 0 and below 1", lambda value: 0 <= value < 1)
NOT_EMPTY = Rule("not empty", lambda value: bool(value.strip()))


def one_of(*choices: str) -> Rule:
    return Rule(f"one of {', '.join(choices)}", lambda value: value in choices)


def settings(cls: type) -> type:
    """A dataclass whose values are checked when it is made; unknown fields are a `ConfigError` like any other
    problem."""
    cls = dataclasses.dataclass(cls)
    initialise, known = cls.__init__, [field.name for field in dataclasses.fields(cls)]

    @functools.wraps(initialise)
    def checked(self, *values, **fields):
        unknown = [_unknown_field(name, known) for name in fields if name not in known]
        if unknown:
            raise ConfigError(unknown, cls.__name__)
        initialise(self, *values, **fields)
        problems = self.problems()
        if problems:
            raise ConfigError(problems, cls.__name__)

    hints = _hints(cls)
    checked.__annotations__ = initialise.__annotations__ = {
        name: hints[name] for name in known
    }  # resolved here, where they are known, for the command line
    cls.__init__ = checked
    return cls


class Settings:
    """The base of every configuration. A subclass has `RULES`, a tuple of field names for each rule, and may say which
    values clash."""

    RULES: ClassVar[dict[Rule, tuple[str, ...]]] = {}

    def problems(self) -> list[str]:
        """One sentence for everything that is wrong; empty if nothing is."""
        found = _wrong_types(self)
        for cls in type(self).__mro__:
            for rule, names in cls.__dict__.get("RULES", {}).items():
                for name in names:
                    value = getattr(self, name)
                    if name not in found and value is not None and not rule.holds(value):
                        found[name] = f"{name} is {value!r}; it must be {rule.words}"
        return list(found.values()) or self.clashes()

    def clashes(self) -> list[str]:
        """A sentence for each pair of values that do not go together; asked only when each is good by itself."""
        return []


@dataclasses.dataclass
class ModelSettings(Settings):
    """The base model, and the adapters put on it."""

    model_name: str = "Qwen/Qwen3-0.6B-Base"
    """The base model: a hub id, a folder (a model's or an adapter's), a .gguf file, or "embedded" for the small one
    that comes with the package."""
    dtype: str = "auto"
    """Weights of the base: float32 or bfloat16; auto is bfloat16 on a GPU, float32 on a CPU. What is trained is kept in
    float32 as well."""
    device: str = "auto"
    """Where to run: cuda, cuda:1, mps or cpu; auto takes the first GPU, if there is one."""
    seed: int = 0
    """Seeds new adapters and heads, the order of the data, the held-out split, the sampling and the mini-batches."""

    lora_r: int = 16
    """Rank of the new adapters; 0 trains all weights instead. A value model that starts from a reward model, or was
    pretrained, keeps that rank."""
    lora_alpha: float = 32
    """Scale of the adapters: their output is multiplied by lora_alpha / lora_r."""
    lora_dropout: float = 0.1
    """Dropout written into the adapters' configuration; it is applied in SFT and reward modelling, and never in PPO
    (2403.17031)."""
    lora_targets: str = "all-linear"
    """Modules that get an adapter: all-linear, or comma-separated names such as q_proj,v_proj."""

    RULES: ClassVar = {
        NOT_EMPTY: ("model_name", "lora_targets"),
        one_of("auto", "float32", "bfloat16"): ("dtype",),
        NOT_NEGATIVE: ("lora_r", "seed"),
        POSITIVE: ("lora_alpha",),
        BELOW_ONE: ("lora_dropout",),
    }


def sampling_clashes(top_k: int, top_p: float) -> list[str]:
    """A sentence if the tokens that top-p leaves could be the whole vocabulary."""
    if top_p < 1 and top_k == 0:
        return [
            f"top_p is {top_p} but top_k is 0; the tokens that top-p leaves are kept for training and could be "
            "the whole vocabulary for every "
            "token sampled: set top_k too (1000 hardly cuts more), or top_p 1"
        ]
    return []


def differences(now: dict, then: dict, may_change: tuple[str, ...]) -> list[str]:
    """A phrase for each setting that is another now than it was, but for those that may change."""
    return [
        f"{name} was {then.get(name)!r} and is {now[name]!r}"
        for name in now
        if name not in may_change and now[name] != then.get(name)
    ]


def _unknown_field(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"there is no field {name!r}" + (f"; did you mean {near[0]!r}?" if near else "; `--help` lists them")


def _wrong_types(config: Settings) -> dict[str, str]:
    """A sentence for each field whose value has the wrong type, by name."""
    found, hints = {}, _hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not _fits(value, hints[field.name]):
            found[field.name] = f"{field.name} is {value!r}; it must be {_in_words(hints[field.name])}"
    return found


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _options(hint) -> tuple:
    """The types that `hint` allows, without None."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return tuple(kind for kind in (typing.get_args(hint) if union else (hint,)) if kind is not type(None))


def _fits(value, hint) -> bool:
    if value is None:
        return type(None) in typing.get_args(hint)
    return any(_fits_one(value, kind) for kind in _options(hint))


def _fits_one(value, kind) -> bool:
    if typing.get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(item, typing.get_args(kind)[0]) for item in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _in_words(hint) -> str:
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
    return " or ".join(
        f"a list, each {_in_words(typing.get_args(kind)[0])}" if typing.get_origin(kind) is list else words[kind]
        for kind in _options(hint)
    )

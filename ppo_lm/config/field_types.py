"""What a configuration field declares besides its default: type and bounds, topic, former name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple


class Rule(NamedTuple):
    """A bound on a field's value, in the field's `Annotated` type: the words after "it must", and the test."""

    words: str
    holds: Callable[[Any], bool]


class FormerName(NamedTuple):
    """The former name of a field, in its `Annotated` type. It still works, with a note; see `Settings`."""

    name: str


@dataclass(frozen=True)  # of which two are equal only if they are of the same class, as the cache of typing needs
class MayChange:
    """In a field's `Annotated` type: a resumed run may change it, because no result depends on it."""


@dataclass(frozen=True)
class SetsLength:
    """In a field's `Annotated` type: it sets how many steps a run has; a resumed run may change it, to go on for longer
    or end sooner."""


class Topic(Enum):
    """The heading of a group of options in `--help`, in the order of the groups.

    `NAME = Topic("Sampling")` in the body of a configuration puts the fields below it into that group.
    """

    HARDWARE = "Hardware"
    MODEL = "Model"
    LORA = "LoRA"
    DATA = "Data"
    REWARD = "Reward"
    SAMPLING = "Sampling"
    KL = "KL penalty"
    ADVANTAGES = "Advantages and values"
    LOSSES = "Losses"
    OPTIMISATION = "Optimisation"
    MEMORY = "Memory and speed"
    EVALUATION = "Evaluation"
    JUDGING = "Judging"
    SERVER = "Server"
    STOPPING = "Stopping early"
    RUN = "Run folder"
    HUB = "Hugging Face hub"


NOT_NEGATIVE = Rule("be 0 or more", lambda value: value >= 0)

PositiveInt = Annotated[int, Rule("be at least 1", lambda value: value >= 1)]
NonNegativeInt = Annotated[int, NOT_NEGATIVE]
PositiveFloat = Annotated[float, Rule("be above 0", lambda value: value > 0)]
NonNegativeFloat = Annotated[float, NOT_NEGATIVE]
Fraction = Annotated[float, Rule("be between 0 and 1", lambda value: 0 <= value <= 1)]
PositiveFraction = Annotated[float, Rule("be above 0 and at most 1", lambda value: 0 < value <= 1)]
FractionBelowOne = Annotated[float, Rule("be at least 0 and below 1", lambda value: 0 <= value < 1)]
ZeroOrAboveOne = Annotated[float, Rule("be 0 (off) or above 1", lambda value: value == 0 or value > 1)]
Text = Annotated[str, Rule("not be empty", lambda value: bool(value.strip()))]
Dtype = Literal["auto", "float32", "bfloat16"]
Quantisation = Literal["none", "nf4", "int8"]
MAY_CHANGE = MayChange()
SETS_LENGTH = SetsLength()

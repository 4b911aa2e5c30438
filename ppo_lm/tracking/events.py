"""What a run reports, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from ppo_lm.config.settings import Settings
from ppo_lm.data import DataReport, Prompt


class Column(NamedTuple):
    """A metric that the screen shows for each step: its name, its title, and its format, such as ``6.3f``."""

    name: str
    title: str
    format: str = "6.3f"


@dataclass(frozen=True)
class RunStart:
    """A run begins, or continues after step `done`.

    Example: ``RunStart("PPO on embedded (2.1M parameters, float32, cpu): 80 steps of 8 prompts", config,
    Path("runs/embedded"), 80)``
    """

    headline: str
    config: Settings
    folder: Path | None  # None: nothing is written
    steps: int
    done: int = 0
    reports: Sequence[DataReport] = ()
    notices: Sequence[str] = ()  # what the user should know, one sentence each
    history: Sequence[dict] = ()  # the rows of metrics.jsonl that a resumed run keeps
    columns: Sequence[Column] = ()
    lines: int = 0  # how many progress lines to print over the run; 0: one per step


@dataclass(frozen=True)
class StepDone:
    """Step `step` of `steps` is done. `metrics`: finite numbers by name; docs/metrics.md defines them."""

    step: int
    steps: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class StepSkipped:
    """Step `step` was skipped because of NaN or inf; nothing was trained. `folder` holds its batch; None if nothing is
    written."""

    step: int
    steps: int
    reason: str
    folder: Path | None


@dataclass(frozen=True)
class SamplesDrawn:
    """The responses of a step, row by row. `parts`: each reward's scores by its name; None for no opinion."""

    step: int
    prompts: Sequence[Prompt]
    completions: Sequence[str]
    scores: Sequence[float]
    parts: Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class TokensSeen:
    """A few responses of a step, token by token; the first of those in `SamplesDrawn`.

    `tensors`: every column of `SAPairs` but the support, with R rows, and `ratios`, (R, A): how much more likely the
    step's training made each token; for the policy that sampled and for the reference, `policy_choices` and
    `reference_choices`, (R, A, K) int64 with -1 = none, and their `..._choice_logprobs`. `pieces`: the text that each
    real token adds, prompt included, row by row; `vocabulary`: the texts of tokens and choices by id. `prompt_columns`:
    the other columns of each prompt.
    """

    step: int
    kl_coef: float  # of the KL penalty in the rewards
    tensors: Mapping[str, torch.Tensor]
    prompts: Sequence[Prompt]
    prompt_columns: Sequence[Mapping[str, object]]
    completions: Sequence[str]
    parts: Mapping[str, Sequence[float | None]]
    pieces: Sequence[Sequence[str]]
    vocabulary: Mapping[int, str]


@dataclass(frozen=True)
class EvaluationDone:
    """Means over `examples` held-out examples after `step`, by evaluation name. `samples`: a few of them, likewise.

    Example: ``EvaluationDone(80, 128, {"sampled": {"score": 2.3, "kl": 5.8}, "near_greedy": {"score": 2.6}})``
    """

    step: int
    examples: int
    means: Mapping[str, Mapping[str, float]]
    samples: Mapping[str, SamplesDrawn] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointSaved:
    """The run can be resumed from after `step`."""

    step: int
    folder: Path


class Answer(NamedTuple):
    """A held-out completion and its numbers, such as ``{"reward": 2.3, "gold": 0.9}``; `when` it was written: before
    or after training."""

    when: str
    text: str
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class RunFinish:
    """A run is over and its models are saved. `reason`: why it stopped before its last step; None if it did not."""

    folder: Path | None
    done: int  # steps
    reason: str | None = None
    examples: Sequence[tuple[Prompt, Sequence[Answer]]] = field(default=())

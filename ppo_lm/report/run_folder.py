"""What the folder of a run says, finished or not, as plain values. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppo_lm.config import PPOConfig
from ppo_lm.config.fields import fields_of
from ppo_lm.config.files import read_run_settings
from ppo_lm.config.output_folder import ENVIRONMENT, HELD_OUT
from ppo_lm.config.settings import Settings, with_current_names
from ppo_lm.config.stages import STAGES
from ppo_lm.errors import UserError
from ppo_lm.health.checks import steps_of
from ppo_lm.health.doctor import read_findings, read_rows
from ppo_lm.health.rows import METRICS
from ppo_lm.reading import Missing, Unreadable, read_json
from ppo_lm.report.position import explained_by_position
from ppo_lm.report.token_files import read_token_files

Record = dict[str, Any]
NOT_SERIES = ("step",)


def read_run_folder(folder: Path) -> Record:
    """What the report shows of a run of any stage: its settings, the series of its metrics, its evaluations, what
    `ppo-lm doctor` finds, the answers to a few held-out prompts, and a few responses token by token. Raises
    `UserError`."""
    stage, config = _read_config(folder / "config.yaml")
    rows = read_rows(folder / METRICS)
    steps = steps_of(rows)
    tokens = read_token_files(folder)
    return {
        "name": folder.name,
        "folder": str(folder),
        "stage": stage,
        "done": max((row["step"] for row in rows), default=0),
        "steps": [row["step"] for row in steps],
        "series": _series(steps),
        "dropped": [{"step": row["step"], "reason": row["dropped"]} for row in rows if "dropped" in row],
        "evaluations": _evaluations(rows),
        "health": [finding.text for finding in read_findings(folder / METRICS, steps, config)]
        if isinstance(config, PPOConfig)
        else [],
        "answers": _answers(read_rows(folder / HELD_OUT)),
        "settings": _settings(config),
        "environment": _read_optional(folder / ENVIRONMENT),
        "data": _read_optional(folder / "data_report.json"),
        "tokens": tokens,
        "explained_by_position": explained_by_position(tokens),
    }


def _series(steps: Sequence[Record]) -> dict[str, list[float | None]]:
    """Each metric by step; None where it is missing or not finite."""
    names = dict.fromkeys(name for row in steps for name in row if name not in NOT_SERIES)
    return {name: [_finite(row.get(name)) for row in steps] for name in names}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _evaluations(rows: Sequence[Record]) -> list[Record]:
    """Every evaluation: its step, its name and its means."""
    return [
        {
            "step": row["step"],
            "name": row["evaluation"],
            "means": {key: _finite(value) for key, value in row.items() if key not in ("step", "evaluation")},
        }
        for row in rows
        if "evaluation" in row
    ]


def _answers(samples: Sequence[Record]) -> list[Record]:
    """The held-out prompts, each with its answers in every evaluation, oldest first."""
    prompts: dict[str, Record] = {}
    for sample in samples:
        entry = prompts.setdefault(repr(sample["prompt"]), {"prompt": sample["prompt"], "answers": []})
        entry["answers"].append({key: value for key, value in sample.items() if key != "prompt"})
    return list(prompts.values())


def _read_config(file: Path) -> tuple[str, Settings]:
    """(the command of the run, its settings)."""
    settings = read_run_settings(file, "report")
    for stage, kind in STAGES.items():
        if fields_of(kind).keys() >= with_current_names(kind, settings).keys():
            return stage, kind(**settings)
    raise UserError(f"{file} is not the configuration of a run of {', '.join(STAGES)}")


def _settings(config: Settings) -> list[Record]:
    """Every setting with its topic, its value, and whether that is the default."""
    return [
        {
            "name": name,
            "topic": field.topic.value,
            "value": getattr(config, name),
            "default": getattr(config, name) == field.default,
        }
        for name, field in fields_of(type(config)).items()
    ]


def _read_optional(file: Path) -> Any:
    try:
        return read_json(file)
    except Missing:
        return None
    except Unreadable as error:
        raise UserError(f"{file} cannot be read: it {error}") from None

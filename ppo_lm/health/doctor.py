"""`ppo-lm doctor`: checks the folder of a PPO run, finished or not."""

from __future__ import annotations

from pathlib import Path

from ppo_lm.config import PPOConfig
from ppo_lm.config.files import is_ppo_run, read_run_settings
from ppo_lm.errors import ConfigError, UserError
from ppo_lm.health.checks import WINDOW, check_health, steps_of
from ppo_lm.health.rows import METRICS, null_as_nan, read_row
from ppo_lm.reading import Missing, Unreadable, read_text


def examine(folder: Path) -> list[str]:
    """Lines to print: the run's progress, the skipped steps if any, and every finding of `check_health`. Raises
    `UserError`."""
    config, rows = _read_config(folder / "config.yaml"), read_rows(folder / METRICS)
    steps, dropped = steps_of(rows), [row for row in rows if "dropped" in row]
    done = max((row["step"] for row in rows), default=0)
    lines = [f"{folder}: {done} of {config.steps} steps"]
    if dropped:
        lines.append(
            f"{len(dropped)} steps were skipped, most recently step {dropped[-1]['step']}: {dropped[-1]['dropped']}; "
            "their batches are in dropped/"
        )
    lines += read_findings(folder / METRICS, steps, config)
    if len(lines) == 1:
        lines.append(
            "no problem found" if len(steps) >= WINDOW else f"no problem found; most checks start at step {WINDOW}"
        )
    return lines


def read_findings(file: Path, steps: list[dict], config: PPOConfig) -> list[str]:
    """What `check_health` finds in the steps of a file. Raises `UserError` if it cannot read them."""
    try:
        return [finding.text for finding in check_health(steps, config)]
    except KeyError as error:
        raise UserError(f"{file} has a step without {error}, so it was written by another version of ppo_lm") from None


def _read_config(file: Path) -> PPOConfig:
    settings = read_run_settings(file, "doctor")
    if not is_ppo_run(settings):
        raise ConfigError([f"{file} is not the configuration of a PPO run"], "doctor")
    return PPOConfig(**settings)


def read_rows(file: Path) -> list[dict]:
    """The complete rows of metrics.jsonl or samples.jsonl: a run in progress may still be writing the last one."""
    try:
        *lines, _ = read_text(file).split("\n")
    except Missing:
        return []
    except Unreadable as error:
        raise UserError(f"{file} cannot be read: it {error}") from None
    rows = [read_row(file, number, line) for number, line in enumerate(lines, start=1)]
    return [null_as_nan(row) for row in rows]

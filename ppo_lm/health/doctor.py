"""`ppo-lm doctor`: checks the folder of a PPO run, finished or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ppo_lm.config import PPOConfig
from ppo_lm.config.files import is_ppo_run, read_run_settings
from ppo_lm.errors import ConfigError, UserError
from ppo_lm.health.checks import WINDOW, Finding, check_health, steps_of
from ppo_lm.health.rows import METRICS, null_as_nan, parse_rows
from ppo_lm.reading import Missing, Unreadable, read_text


class Examination(NamedTuple):
    """What a run's folder shows. `steps`: the length of the run, of which `done` are done; `dropped`: the rows of
    skipped steps; `checked`: the number of steps that the findings are about."""

    folder: Path
    done: int
    steps: int
    dropped: list[dict]
    checked: int
    findings: list[Finding]

    def lines(self) -> list[str]:
        """Lines to print: the run's progress, the skipped steps if any, and every finding."""
        lines = [f"{self.folder}: {self.done} of {self.steps} steps"]
        if self.dropped:
            last = self.dropped[-1]
            lines.append(
                f"{len(self.dropped)} steps were skipped, most recently step {last['step']}: {last['dropped']}; their "
                "batches are in dropped/"
            )
        lines += [finding.text for finding in self.findings]
        if len(lines) == 1:
            lines.append(
                "no problem found"
                if self.checked >= WINDOW
                else f"no problem found; most checks start at step {WINDOW}"
            )
        return lines

    def record(self) -> dict[str, Any]:
        """The same for a script."""
        return {
            "folder": str(self.folder),
            "done": self.done,
            "steps": self.steps,
            "skipped": [{"step": row["step"], "reason": row["dropped"]} for row in self.dropped],
            "findings": [finding._asdict() for finding in self.findings],
        }


def examine(folder: Path) -> Examination:
    """Check the folder of a PPO run with `check_health`. Raises `UserError`."""
    config, rows = _read_config(folder / "config.yaml"), read_rows(folder / METRICS)
    steps = steps_of(rows)
    return Examination(
        folder,
        done=max((row["step"] for row in rows), default=0),
        steps=config.steps,
        dropped=[row for row in rows if "dropped" in row],
        checked=len(steps),
        findings=read_findings(folder / METRICS, steps, config),
    )


def read_findings(file: Path, steps: list[dict], config: PPOConfig) -> list[Finding]:
    """What `check_health` finds in the steps of a file. Raises `UserError` if it cannot read them."""
    try:
        return check_health(steps, config)
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
        text = read_text(file)
    except Missing:
        return []
    except Unreadable as error:
        raise UserError(f"{file} cannot be read: it {error}") from None
    return [null_as_nan(row) for row in parse_rows(file, text)[0]]

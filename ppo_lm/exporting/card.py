"""The model card: what was trained on what, how well it went, and how to load it. Texts of users are escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ppo_lm.exporting.command import repeat_command
from ppo_lm.exporting.header import card_header
from ppo_lm.exporting.limits import describe_limits
from ppo_lm.exporting.loading import describe_loading
from ppo_lm.exporting.measured import Measured, count_examples, data_reports, measured
from ppo_lm.exporting.places import Places
from ppo_lm.exporting.source import Source
from ppo_lm.markdown import block, code, plain

CURVE = "learning_curve.png"
TRAINED = {
    "train": "A language model trained with PPO",
    "sft": "A language model fine-tuned on demonstrations",
    "reward": "A reward model trained on preferences",
    "value": "A value model trained on scored demonstrations",
}
COUNTS = {  # of a data report
    "rows": "rows",
    "used": "used",
    "duplicates": "duplicates",
    "train": "trained on",
    "held_out": "held out",
    "leaked": "held out with a prompt that is also trained on",
    "cut": "prompts cut",
}


def make_card(source: Source, places: Places, folder: Path, name: str) -> str:
    """The text of README.md for the export in `folder`."""
    model = source.models[places.parts[0]]
    evaluations = measured(
        [made for made in source.record["evaluations"] if model.step is None or made["step"] <= model.step]
    )
    sections = {
        "Loading": describe_loading(source, places, folder, name),
        "Data and reward": _data(source),
        "Settings": _settings(source),
        "Learning curve": [f"![Learning curve]({CURVE})"] if (folder / CURVE).is_file() else [],
        "Evaluation": _evaluation(source, evaluations),
        "Limits": [f"* {sentence}" for sentence in describe_limits(source, evaluations)],
        "Environment": _environment(source.record["environment"]),
    }
    described = model.description.replace(str(source.folder), source.folder.name)
    lines = [
        card_header(source, places, evaluations, name),
        f"# {plain(name)}",
        "",
        f"{TRAINED[source.stage]} by ppo\\_lm, from {code(source.base)}: {plain(described)}.",
        "",
    ]
    for title, body in sections.items():
        if body:
            lines += [f"## {title}", "", *body, ""]
    return "\n".join(lines)


def _data(source: Source) -> list[str]:
    lines = [f"* {code(str(report.get('source')))}: {_counts(report)}" for report in data_reports(source.record)]
    reward = source.settings.get("reward")
    rewards = reward if isinstance(reward, list) else [reward]
    if source.stage in ("train", "value"):
        named = [code(each) for each in rewards if each is not None]
        lines.append(f"* Reward: {', '.join(named) or 'the default, TL;DR heuristics, or one given in Python'}")
    monitor = source.settings.get("monitor")
    return lines + ([f"* Monitor, not trained on: {code(monitor)}"] if monitor else [])


def _counts(report: Mapping[str, Any]) -> str:
    found = [f"{report[name]:,} {words}" for name, words in COUNTS.items() if isinstance(report.get(name), int)]
    dropped = report.get("dropped")
    return ", ".join(found + ([f"{len(dropped):,} left out"] if dropped else []))


def _settings(source: Source) -> list[str]:
    settings = source.record["settings"]
    others = {setting["name"]: setting["value"] for setting in settings if not setting["default"]}
    return [
        "Those other than the defaults:",
        "",
        block(yaml.safe_dump(others, sort_keys=False, allow_unicode=True), "yaml"),
        "",
        "This repeats the run, with the same data and rewards in place, and writes to the command's default folder:",
        "",
        block(repeat_command(source.stage, settings), "sh"),
    ]


def _evaluation(source: Source, evaluations: Sequence[Measured]) -> list[str]:
    if not evaluations:
        return []
    count = count_examples(source.record, "held_out")
    lines = [f"Means over {count:,} held-out example{'s' * (count != 1)}:", ""]
    for evaluation in evaluations:
        columns = dict(zip(evaluation.steps, (evaluation.before, evaluation.after)))  # one, if it was made once
        names = dict.fromkeys([*evaluation.before, *evaluation.after])
        rows = [
            [plain(evaluation.kind), *(f"step {step}" for step in columns)],
            ["---"] * (1 + len(columns)),
            *([plain(name), *(_number(means.get(name)) for means in columns.values())] for name in names),
        ]
        lines += [*(f"| {' | '.join(cells)} |" for cells in rows), ""]
    return lines[:-1]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _environment(environment: object) -> list[str]:
    if not isinstance(environment, dict):
        return []
    return [f"* {plain(str(name))}: {code(str(value))}" for name, value in environment.items()]

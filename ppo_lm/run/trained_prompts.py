"""Which prompts a model was trained on, as far as the folders of runs tell."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ppo_lm.base_setup import read_adapter_base
from ppo_lm.data import Prompt
from ppo_lm.data.examples import show_prompt
from ppo_lm.fingerprint import fingerprint
from ppo_lm.models.adapter_check import CONFIG_FILE
from ppo_lm.reading import Unreadable, read_json, user_path
from ppo_lm.run.folder import CONFIG, RUN_FILES, TRAINED_PROMPTS
from ppo_lm.saving import write_text

KEY_LENGTH = 16  # hexadecimal digits: 64 bits
DEEPEST = 3  # folders between a run and a model in it: checkpoints/step-000100/adapter


class TrainingPrompts(NamedTuple):
    """What a run records: the model that it started from, and the prompts of its training data, as they were before
    they were cut."""

    base: str
    prompts: Sequence[Prompt]


class Lineage(NamedTuple):
    """How a model came about. `runs`: the keys of the prompts that each run trained on, latest first; `gaps`: adapters
    and runs that do not tell theirs; `root`: the model that it all started from."""

    runs: dict[Path, set[str]]
    gaps: list[str]
    root: str


def prompt_key(prompt: Prompt) -> str:
    """A short hash of a prompt. White space around it does not count, and a conversation of one turn is its text."""
    text = prompt[0]["content"] if isinstance(prompt, list) and len(prompt) == 1 else show_prompt(prompt)
    return fingerprint(text.strip())[:KEY_LENGTH]


def record_prompts(run_folder: Path, trained: TrainingPrompts) -> None:
    """Write `TRAINED_PROMPTS` into the folder of a run; what a resumed run recorded before is kept."""
    recorded = read_record(run_folder)
    keys = {prompt_key(prompt) for prompt in trained.prompts} | (recorded[1] if recorded else set())
    text = json.dumps({"base": trained.base, "prompts": sorted(keys)}, indent=0)
    write_text(run_folder / TRAINED_PROMPTS, text + "\n")


def read_record(run_folder: Path) -> tuple[str, set[str]] | None:
    """(base, keys) that `record_prompts` wrote; None if there is no readable record."""
    try:
        record = read_json(run_folder / TRAINED_PROMPTS)
        return str(record["base"]), set(map(str, record["prompts"]))
    except (Unreadable, KeyError, TypeError):
        return None


def trace(model: str) -> Lineage:
    """The lineage of a model that `load_base` or `load_adapter` takes."""
    runs: dict[Path, set[str]] = {}
    gaps: list[str] = []
    passed: set[str] = set()
    while model not in passed:
        passed.add(model)
        place = user_path(model, "models")
        run_folder = run_of(place)
        record = None if run_folder is None else read_record(run_folder)
        if run_folder is not None and record is not None:
            model, runs[run_folder] = record
        elif (place / CONFIG_FILE).is_file():
            gaps.append(model)
            model = read_adapter_base(place)
        elif run_folder is not None:
            gaps.append(model)
    return Lineage(runs, gaps, model)


def count_seen(prompts: Iterable[Prompt], keys: set[str]) -> int:
    """How many of the prompts are among those with these keys."""
    return sum(prompt_key(prompt) in keys for prompt in prompts)


def run_of(model: Path) -> Path | None:
    """The folder of the run that wrote the model in the folder `model`."""
    model = model.resolve()
    for folder in list(model.parents)[:DEEPEST]:
        if (folder / CONFIG).is_file() and model.relative_to(folder).parts[0] in RUN_FILES:
            return folder
    return None

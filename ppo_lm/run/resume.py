"""Whether a checkpoint belongs to the run that is being resumed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppo_lm.config.fields import fields_of
from ppo_lm.config.settings import Settings, differences, with_current_names
from ppo_lm.distributed import processes
from ppo_lm.errors import CheckpointError, ConfigError
from ppo_lm.run.checkpoint import Checkpoint
from ppo_lm.run.identity import DATA, THREADS

FORMAT = 3  # of the state in a checkpoint
HASH = re.compile(r"[0-9a-f]{64}")


def describe(config: Settings, identity: Mapping[str, object]) -> dict[str, Any]:
    """How a checkpoint describes its run: its settings, and whatever else its numbers depend on."""
    return {"format": FORMAT, "config": dataclasses.asdict(config), "identity": dict(identity)}


def check_same_everywhere(description: Mapping[str, Any]) -> None:
    """Raise `ConfigError` unless all processes describe their run as the first one does."""
    team = processes()
    first = team.once(lambda: description)

    def check() -> None:
        changes = differences(description["config"], first["config"], ())
        changes += _identity_changes(description["identity"], first["identity"])
        if changes:
            raise ConfigError.of(
                f"process {team.place.rank} is not like the first one: {'; '.join(changes)} here; start all with the "
                "same command, and give all hosts the same files and packages"
            )

    team.together(check)


def change_of_processes(then: Mapping[str, Any], size: int) -> list[str]:
    """A sentence if a checkpoint was written by another number of processes."""
    before = then.get("processes", 1)
    if before == size:
        return []
    return [
        f"the run was made by {before} process{'es' * (before > 1)} and goes on with {size}: the numbers are the same "
        "up to rounding, not bit for bit"
    ]


def find_changes(config: Settings, now: Mapping[str, Any], then: Mapping[str, Any], size: int = 1) -> list[str]:
    """A phrase for everything that is different between the run that a checkpoint describes (`then`) and the one that
    resumes it (`now`, in `size` processes), except for fields that may change and those of `length_changes`. Raises
    `CheckpointError` for another format."""
    if then.get("format") != now["format"]:
        raise CheckpointError("the checkpoint was written by another version of ppo_lm; resume it with that version")
    fields = fields_of(type(config)).items()
    may_change = [name for name, field in fields if field.may_change or field.sets_length]
    settings = differences(now["config"], with_current_names(type(config), then["config"]), may_change)
    if then.get("processes", 1) != size:  # which rounds otherwise, as another number of threads does
        then = {**then, "identity": {**then["identity"], THREADS: now["identity"].get(THREADS)}}
    return settings + _identity_changes(now["identity"], then["identity"])


def data_changes(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    """A phrase for every part of the data that is different; see `find_changes`. With other data, other examples are
    held out: some that were trained on, while the checkpoint's evaluations and scores are those of the old ones."""
    mine, theirs = ({name: run["identity"].get(name) for name in DATA} for run in (now, then))
    return _identity_changes(mine, theirs)


def length_changes(config: Settings, then: Mapping[str, Any]) -> list[str]:
    """A phrase for every setting of the run's length that is not as the checkpoint describes it (`then`)."""
    others = fields_of(type(config)).keys() - set(length_settings(config))
    return differences(dataclasses.asdict(config), with_current_names(type(config), then["config"]), others)


def length_settings(config: Settings) -> list[str]:
    """The names of the settings that a run's length follows from."""
    return [name for name, field in fields_of(type(config)).items() if field.sets_length]


def how_to_lengthen(config: Settings) -> str:
    """What to raise for a longer run."""
    return " or ".join(f"{name} (--{name} N)" for name in length_settings(config))


def check_unfinished(config: Settings, checkpoint: Checkpoint, folder: Path) -> None:
    """Raise `CheckpointError` if the run in `folder` ended with the checkpoint, and `config` does not change its
    length."""
    then = checkpoint.state
    if not checkpoint.finished or length_changes(config, then):
        return
    reason = f" ({then['stop_reason']})" if then["stop_reason"] else ""
    raise CheckpointError(
        f"the run in {str(folder)!r} is finished: it ended after step {then['step']}{reason}; to extend it, raise "
        f"{then.get('longer') or how_to_lengthen(config)} and resume it"
    )


def _identity_changes(now: Mapping[str, object], then: Mapping[str, object]) -> list[str]:
    changes = []
    for name in (*now, *(name for name in then if name not in now)):
        was, is_ = then.get(name), now.get(name)
        if was == is_:
            continue
        if name not in now or name not in then:
            changes.append(f"{name} {'is new' if name in now else 'is gone'}")
        elif any(isinstance(value, str) and HASH.fullmatch(value) for value in (was, is_)):
            changes.append(f"{name} changed")
        else:
            changes.append(f"{name} was {was!r} and is {is_!r}")
    return changes

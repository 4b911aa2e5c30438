"""Whether a checkpoint belongs to the run that is being resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ppo_lm.config.fields import fields_of
from ppo_lm.config.settings import Settings, differences, with_current_names
from ppo_lm.errors import CheckpointError

FORMAT = 2  # of the state in a checkpoint


def describe(config: Settings, identity: Mapping[str, object], data: str) -> dict[str, Any]:
    """How a checkpoint describes its run: settings, whatever else its numbers depend on, and the data's fingerprint."""
    return {"format": FORMAT, "config": dataclasses.asdict(config), "identity": dict(identity), "data": data}


def check_same_run(config: Settings, now: Mapping[str, Any], then: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` unless `then`, from a checkpoint, describes the same run as `now`. Fields that may change
    on resuming are not compared."""
    if then.get("format") != now["format"]:
        raise CheckpointError("the checkpoint was written by another version of ppo_lm; resume it with that version")
    may_change = [name for name, field in fields_of(type(config)).items() if field.may_change]
    before = with_current_names(type(config), then["config"]) | then["identity"]
    changed = differences(now["config"] | now["identity"], before, may_change)
    if changed:
        raise CheckpointError(
            f"the run to resume had other settings: {'; '.join(changed)}; a resumed run must keep its settings"
        )
    if now["data"] != then["data"]:
        raise CheckpointError(
            "the data has changed since the run was paused; resume it with the same data in the same order, or start a "
            "new run"
        )

"""Whether a checkpoint belongs to the run that wants to continue from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ppo_lm.config.settings import Settings, differences
from ppo_lm.errors import CheckpointError


def describe(config: Settings, identity: Mapping[str, object], data: str) -> dict:
    """What a checkpoint keeps of the run it belongs to: settings, what else its numbers depend on, and the data's
    fingerprint."""
    return {"config": dataclasses.asdict(config), "identity": dict(identity), "data": data}


def check_same_run(now: dict, then: Mapping, may_change: tuple[str, ...]) -> None:
    """Raise `CheckpointError` unless `then`, of a checkpoint, describes the same run as `now`."""
    settings = now["config"] | now["identity"]
    changed = differences(settings, then.get("config", {}) | then.get("identity", {}), may_change)
    if changed:
        raise CheckpointError(
            f"the run to resume had other settings: {'; '.join(changed)}; a resumed run keeps its settings"
        )
    if now["data"] != then.get("data"):
        raise CheckpointError(
            "the data has changed since the run was paused; resume it with the same data in the same order, or start a "
            "new run"
        )

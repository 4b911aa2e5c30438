"""The registered parts of a run: what its checkpoints hold."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ppo_lm.errors import CheckpointError, first_line
from ppo_lm.run.checkpoint import Checkpoint
from ppo_lm.run.stateful import State, Stateful


class Parts:
    """Stateful parts by name. If there is a `checkpoint`, each is restored from it when registered."""

    def __init__(self, checkpoint: Checkpoint | None = None):
        self._parts: dict[str, Stateful] = {}
        self._undone: list[str] = []
        self._before: dict[str, State] = {}
        self._saved = None if checkpoint is None else checkpoint.parts()

    def register(self, name: str, part: Stateful, *, undo: bool = False, optional: bool = False) -> None:
        """Add a part; see `Run.register`. `optional`: a checkpoint may lack it."""
        if name in self._parts:
            raise ValueError(f"a part called {name!r} is already registered")
        self._parts[name] = part
        if undo:
            self._undone.append(name)
        if self._saved is None or (optional and name not in self._saved):
            return
        try:
            part.load_state_dict(self._saved.pop(name))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"the checkpoint does not fit ({name}: {type(error).__name__}: {first_line(error)}), so it was written "
                "by another version of ppo_lm, torch or peft"
            ) from error

    def checkpoint(self, state: Mapping[str, Any]) -> Checkpoint:
        """All parts as they are now, with the run's own `state`."""
        return Checkpoint.of({name: part.state_dict() for name, part in self._parts.items()}, state)

    def remember(self) -> None:
        """Copy the parts that a failed step may leave changed."""
        self._before = {name: copy.deepcopy(self._parts[name].state_dict()) for name in self._undone}

    def put_back(self) -> None:
        """Undo all their changes since `remember`."""
        for name, state in self._before.items():
            self._parts[name].load_state_dict(state)

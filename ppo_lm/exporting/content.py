"""What an export writes: the parts of a run, or what another program needs to repeat it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from ppo_lm.exporting.places import Places


class Content(ABC):
    """Made, and so checked, before anything is loaded or written. `places`: what is written, and where it goes."""

    places: Places

    @abstractmethod
    def decisions(self) -> list[str]:
        """A sentence for each decision made for the user."""

    @abstractmethod
    def write(self, folder: Path) -> list[str]:
        """Write everything into an empty folder, README.md included. Returns notes for the user, a sentence each.
        Raises `UserError`."""

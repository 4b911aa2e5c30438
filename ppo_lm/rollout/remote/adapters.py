"""The policy's adapter on disk, where servers read it."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import NamedTuple

from ppo_lm.errors import ModelError, writing
from ppo_lm.models import PolicyModel

KEPT = 2  # versions: of an older one, a server may still have answers to give


class Adapter(NamedTuple):
    """A version of the policy: the name under which servers know it, and its PEFT folder."""

    name: str
    folder: str


class AdapterFolders:
    """Writes every version of a policy into a folder of its own, and removes the last but one. A name is never used
    again, not by another run either, because vLLM's prefix cache tells adapters apart by their names."""

    def __init__(self, parent: Path | None):
        """`parent`: where the folders are made; None for a temporary folder, which goes when this object does."""
        self.run, self.parent, self.version = secrets.token_hex(4), parent, 0
        self._place: Path | None = None

    def write(self, policy: PolicyModel) -> Adapter:
        """Write the policy as it is now. Raises `ModelError` if it is not an adapter, `StorageError` if the files
        cannot be written."""
        if policy.role is None:
            raise ModelError("all weights are trained, but vLLM servers get the policy as an adapter; set lora_r")
        self.version += 1
        place = self._made()
        adapter = Adapter(self._name(self.version), str(place / self._name(self.version)))
        with writing(Path(adapter.folder)):
            policy.base.save_adapter(policy.role, adapter.folder)
        shutil.rmtree(place / self._name(self.version - KEPT), ignore_errors=True)
        return adapter

    def _name(self, version: int) -> str:
        return f"policy-{self.run}-{version}"

    def _made(self) -> Path:
        if self._place is None:
            if self.parent is None:
                self._place = Path(tempfile.mkdtemp(prefix="ppo_lm-"))
            else:
                self._place = (self.parent / f"policy-{self.run}").absolute()
                with writing(self._place):
                    self._place.mkdir(parents=True)
            weakref.finalize(self, shutil.rmtree, self._place, ignore_errors=True)
        return self._place

"""The policy's adapter on disk, where servers read it."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import NamedTuple

import torch

from ppo_lm.errors import ModelError, writing
from ppo_lm.models import PolicyModel


class Adapter(NamedTuple):
    """A version of the policy: the name under which servers know it, and its PEFT folder."""

    name: str
    folder: str


class AdapterFolders:
    """Writes every version of a policy into a folder of its own, and removes older ones. A name is never used again,
    not by another run either, because vLLM's prefix cache tells adapters apart by their names."""

    def __init__(self, parent: Path | None, kept: int = 2):
        """`parent`: where the folders are made; None for a temporary folder. Both go when this object does. `kept`: how
        many versions, as servers may still be sampling with the one before."""
        self.run, self.parent, self.kept, self.version = secrets.token_hex(4), parent, kept, 0
        self._written: list[torch.Tensor] = []
        self._place: Path | None = None

    def write(self, policy: PolicyModel) -> Adapter:
        """Write the policy as it is now, unless it is as it was. Raises `ModelError` if it is not an adapter,
        `StorageError` if the files cannot be written."""
        if policy.role is None:
            raise ModelError("all weights are trained, but servers get the policy as an adapter; set lora_r")
        place, weights = self._made(), policy.parameters()
        if self.version and all(torch.equal(now, then) for now, then in zip(weights, self._written)):
            return self._adapter(place)
        self._written = [weight.detach().clone() for weight in weights]
        self.version += 1
        adapter = self._adapter(place)
        with writing(Path(adapter.folder)):
            policy.base.save_adapter(policy.role, adapter.folder)
        shutil.rmtree(place / self._name(self.version - self.kept), ignore_errors=True)
        return adapter

    def _adapter(self, place: Path) -> Adapter:
        return Adapter(self._name(self.version), str(place / self._name(self.version)))

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

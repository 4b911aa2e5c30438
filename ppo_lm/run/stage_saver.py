"""Checkpoints of a supervised stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from ppo_lm.config.settings import differences, with_current_names
from ppo_lm.config.supervised_settings import SupervisedSettings
from ppo_lm.errors import CheckpointError, Interrupted, RunPaused, StorageError, first_line
from ppo_lm.optimisation import Optimiser
from ppo_lm.run.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ppo_lm.run.interrupts import Interrupts

MAY_CHANGE = ("output_dir", "device", "save_every", "keep_checkpoints")


class StageSaver:
    """Saves what decides a stage's next step: weights, optimiser, and the random streams that dropout draws from. The
    order of the data follows from the seed and the number of steps done."""

    def __init__(self, config: SupervisedSettings, data: str, resume: Path | None, command: str):
        """`data`: a fingerprint of what is trained on. `command`: how to resume the folder that is put in for `{}`.
        Raises `CheckpointError` if the folder to resume holds no whole checkpoint, or one of other settings or data."""
        self.config, self.data, self.command = config, data, command
        self.checkpoint, self.damage = load_checkpoint(resume) if resume else (None, [])
        if self.checkpoint:
            state = self.checkpoint.state
            then = with_current_names(type(config), state["config"])
            changed = differences(dataclasses.asdict(config), then, MAY_CHANGE)
            changed += ["the data was other data"] if state["data"] != data else []
            if changed:
                raise CheckpointError(
                    f"the run to resume had other settings: {'; '.join(changed)}; a resumed run keeps its settings"
                )

    @property
    def step(self) -> int:
        """Steps done when the checkpoint was saved; 0 without one."""
        return self.checkpoint.state["step"] if self.checkpoint else 0

    def start(self, folder: Path, weights: Sequence[torch.Tensor], interrupts: Interrupts) -> StageSaver:
        """Save into `folder` from now on."""
        self.folder, self.weights, self.interrupts = folder, list(weights), interrupts
        return self

    @torch.no_grad()
    def restore(self, optimiser: Optimiser) -> int:
        """Put back what the checkpoint holds, and return its step; without one, save the start."""
        if self.checkpoint is None:
            self._save(0, optimiser)
            return 0
        tensors = self.checkpoint.tensors
        try:
            for i, weight in enumerate(self.weights):
                weight.copy_(tensors[f"weight.{i}"])
            own = {
                name.removeprefix("optimiser."): tensor
                for name, tensor in tensors.items()
                if name.startswith("optimiser.")
            }
            optimiser.restore(own, self.checkpoint.state["optimiser"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                "the checkpoint does not fit, so it was written by another version of ppo_lm, torch or peft "
                f"({first_line(error)})"
            ) from error
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])
        return self.step

    def step_done(self, step: int, total: int, optimiser: Optimiser) -> None:
        """Save every `save_every` steps. Raises `RunPaused`, with the run saved, if a signal has come."""
        try:
            self.interrupts.check()
        except Interrupted as error:
            self._save(step, optimiser)
            raise RunPaused(
                f"{error}\nThe run is saved as it was after step {step}; go on with: {self._resume()}"
            ) from error
        if self.config.save_every and step % self.config.save_every == 0 and step < total:
            self._save(step, optimiser)

    def _save(self, step: int, optimiser: Optimiser) -> None:
        tensors = {f"weight.{i}": weight for i, weight in enumerate(self.weights)}
        tensors |= {f"optimiser.{name}": tensor for name, tensor in optimiser.tensors().items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        state = {
            "step": step,
            "config": dataclasses.asdict(self.config),
            "data": self.data,
            "optimiser": optimiser.numbers(),
        }
        try:
            save_checkpoint(self.folder, step, Checkpoint(tensors, state), self.config.keep_checkpoints)
        except StorageError as error:
            raise StorageError(
                f"{error}; make room there, or set it right, and go on from the checkpoint before with: "
                f"{self._resume()}"
            ) from error

    def _resume(self) -> str:
        return self.command.format(self.folder)

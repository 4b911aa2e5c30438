"""What a run does when it cannot go on as it is."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, NoReturn

from ppo_lm.data import Prompt
from ppo_lm.errors import NumericalFault, RunPaused, RunStopped, StorageError, UserError
from ppo_lm.ppo_trainer.faults import all_finite
from ppo_lm.run import Checkpoint, list_checkpoints, save_checkpoint
from ppo_lm.tracking import RunLog

if TYPE_CHECKING:
    from ppo_lm.ppo_trainer.ppo_trainer import PPOTrainer


class RunGuard:
    """Saves checkpoints, drops steps, and ends a run that cannot go on with a sentence that says where to go on
    from."""

    def __init__(self, trainer: PPOTrainer, log: RunLog, command: str):
        """`command`: how to resume the folder that is put in for `{}`."""
        self.trainer, self.log, self.command = trainer, log, command
        steps = [row for row in log.rows if "evaluation" not in row]
        self.dropped_in_a_row = sum(1 for _ in takewhile(lambda row: "dropped" in row, reversed(steps)))

    def save(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint, unless a weight is NaN or infinite, which the next step will find."""
        if self.log.folder and not self._broken_weights():
            save_checkpoint(self.log.folder, checkpoint.state["step"], checkpoint, self.trainer.config.keep_checkpoints)

    def passed(self, step: int, kl: float) -> None:
        """A step is done. Raises `RunStopped` if its `kl`, in nats a response, is over `kl_limit`."""
        config, self.dropped_in_a_row = self.trainer.config, 0
        if config.kl_limit and kl > config.kl_limit:
            raise RunStopped(
                f"step {step}: the KL to the reference is {kl:.1f} nats a response, over kl_limit "
                f"{config.kl_limit:g}; start anew with a higher kl_coef "
                f"({config.kl_coef:g}) or a lower learning_rate ({config.learning_rate:g}){self._last_checkpoint()}"
            )

    def drop(self, step: int, prompts: list[Prompt], fault: NumericalFault) -> None:
        """Record a step that was dropped. Raises `RunStopped` after `max_dropped` in a row, and at once if it was a
        weight."""
        self.dropped_in_a_row += 1
        self.log.dropped(step, prompts, fault)
        broken = self._broken_weights()
        if broken:
            raise RunStopped(
                f"step {step}: {broken} NaN or infinite, so no step can succeed any more{self._last_checkpoint()}"
            )
        if self.dropped_in_a_row >= self.trainer.config.max_dropped:
            raise RunStopped(
                f"step {step}: {self.dropped_in_a_row} steps in a row were dropped, the last one because {fault}; all "
                "weights are finite, so look at the reward "
                f"and at dropped/, lower learning_rate, or set dtype to float32{self._last_checkpoint()}"
            )

    def pause(self, checkpoint: Checkpoint, error: UserError) -> NoReturn:
        """Save the run as it was before the batch that was not finished; that batch is drawn again when it is
        resumed."""
        if self.log.folder is None:
            raise type(error)(f"{error}; nothing of the run is saved, because output_dir is not set") from error
        step = checkpoint.state["step"]
        try:
            save_checkpoint(self.log.folder, step, checkpoint, self.trainer.config.keep_checkpoints)
        except StorageError as full:
            self.stop(StorageError(f"{error}\n{full}"))
        raise RunPaused(
            f"{error}\nThe run is saved as it was after step {step}; go on with: {self._resume()}"
        ) from error

    def stop(self, error: StorageError) -> NoReturn:
        """A file could not be written, so nothing can be saved now."""
        raise StorageError(f"{error}; make room there, or set it right{self._last_checkpoint()}") from error

    def _last_checkpoint(self) -> str:
        saved = list_checkpoints(self.log.folder) if self.log.folder else []
        return (
            f"\nThe last checkpoint is {saved[-1]}; go on from it with: {self._resume()}"
            if saved
            else "\nNo checkpoint of this run is saved"
        )

    def _resume(self) -> str:
        return self.command.format(str(self.log.folder))

    def _broken_weights(self) -> str | None:
        """Which model's weights are NaN or infinite, as the start of a sentence; None if all are finite."""
        roles = self.trainer.roles
        models = {
            "the policy": roles.policy.parameters(),
            "the value model": [] if roles.value is None else roles.value.parameters(),
            "the frozen base": self.trainer.base.network.parameters(),
        }
        return next((f"weights of {name} are" for name, weights in models.items() if not all_finite(weights)), None)

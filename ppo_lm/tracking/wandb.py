"""A run in Weights & Biases."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppo_lm.tracking.events import RunStart
from ppo_lm.tracking.recorder import RECORDERS
from ppo_lm.tracking.tracker import PROJECT, Tracker, last_steps, remembered
from ppo_lm.tracking.wandb_log import read_rows

if TYPE_CHECKING:
    import wandb

FOLDER = "wandb"
CURVES_BY = "step"  # the column that W&B draws curves over


@RECORDERS.register("wandb")
class WandB(Tracker):
    """A run of Weights & Biases, in the project `WANDB_PROJECT` or else ppo_lm. Its files are in `WANDB_DIR` or else in
    the run's folder. Without an API key it is recorded offline.

    W&B numbers rows by itself, as an evaluation is a row of its own; those of a resumed run continue the count.
    """

    needs = ("wandb",)
    run: wandb.Run
    rows = 0

    def open(self, event: RunStart, folder: Path) -> Mapping[str, int]:
        """Start the run, or continue it."""
        import wandb

        wandb.setup(wandb.Settings(silent=True, console="off"))
        has_key = wandb.login(prompt=False)
        place = Path(os.environ.get("WANDB_DIR") or folder)
        number = remembered(folder, "wandb", lambda: os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4))
        held = list(read_rows((place / FOLDER).glob(f"*run-*-{number}/run-{number}.wandb")))
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=os.environ.get("WANDB_NAME") or folder.name,
            id=number,
            dir=str(place),
            config=dataclasses.asdict(event.config),
            resume="allow",
            mode=None if has_key else "offline",
        )
        self.run.define_metric("*", step_metric=CURVES_BY)
        wandb.Table(columns=[], data=[])  # the first one imports pandas, which would hold up a step
        self.rows = max([self.run.step, *(row["_step"] + 1 for row in held)])
        self.notes = [self._where()]
        return last_steps((row, row[CURVES_BY]) for row in held if CURVES_BY in row)

    def _where(self) -> str:
        if self.run.settings.mode == "offline":
            files = shlex.quote(str(Path(self.run.settings.sync_dir).parent))
            return f"W&B: recorded offline; to upload it:\n    wandb sync {files}/*run-*"
        return f"W&B: {self.run.url}"

    def scalars(self, numbers: Mapping[str, float], step: int) -> None:
        """One row."""
        self._log(numbers, step)

    def table(self, name: str, rows: Sequence[Mapping[str, object]], step: int) -> None:
        """A table of W&B."""
        import wandb

        columns: list[Any] = list(rows[0]) if rows else []
        self._log({name: wandb.Table(columns=columns, data=[list(row.values()) for row in rows])}, step)

    def alert(self, kind: str, text: str, step: int) -> None:
        """An alert, which W&B sends by e-mail or Slack."""
        self.run.alert(f"{kind} at step {step}", text, level="WARN")

    def close(self) -> None:
        """Write what is left."""
        if self.is_open:
            self.run.finish()

    def _log(self, row: Mapping[str, object], step: int) -> None:
        self.run.log({CURVES_BY: step, **row}, step=self.rows, commit=True)
        self.rows += 1

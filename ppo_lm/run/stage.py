"""What the supervised stages share: their run, and how they are shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from ppo_lm.config.supervised_settings import SupervisedSettings
from ppo_lm.data import fingerprint
from ppo_lm.data.encoded import Encoded
from ppo_lm.optimisation import count_steps
from ppo_lm.run.run import Run
from ppo_lm.run.stateful import GlobalRandom, Weights
from ppo_lm.tracking import Column, MetricsFile, Recorder, Screen

LOSS = (Column("loss", "loss", ".4f"),)
LINES = 20  # of progress over a stage


def make_stage_run(
    config: SupervisedSettings,
    stage: str,
    train: Encoded,
    *,
    resume: Path | None,
    quiet: bool,
    recorders: Sequence[Recorder] = (),
    identity: Mapping[str, object] | None = None,
) -> Run:
    """The run of `ppo-lm STAGE` on the examples `train`. `identity`: see `Run`."""
    screen = () if quiet else (Screen(),)
    return Run(
        config,
        steps=count_steps(
            len(train.tokens), batch_size=config.batch_size, epochs=config.epochs, max_steps=config.max_steps
        ),
        command=f"ppo-lm {stage} --resume {{}}",
        data=fingerprint([dataclasses.astuple(tokens) for tokens in train.tokens]),
        identity=identity,
        resume=resume,
        save_every=config.save_every,
        keep_checkpoints=config.keep_checkpoints,
        recorders=[*screen, MetricsFile(), *recorders],
    )


def register_training(run: Run, weights: Iterable[torch.Tensor]) -> None:
    """Register what supervised training changes besides its optimiser: the weights, and the streams dropout draws
    from. Call it last before training."""
    run.register("weights", Weights(weights))
    run.register("random", GlobalRandom())


def training_settings(config: SupervisedSettings) -> dict:
    """The settings of `optimisation.minimise` that a configuration holds."""
    return dict(
        learning_rate=config.learning_rate,
        epochs=config.epochs,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        max_steps=config.max_steps,
        max_grad_norm=config.max_grad_norm,
    )


def before_and_after(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What was measured before and after training, as `NAME_before` and `NAME_after`."""
    return {f"{name}_before": value for name, value in before.items()} | {
        f"{name}_after": value for name, value in after.items()
    }

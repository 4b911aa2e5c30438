"""What the supervised stages share: their base, their run, and how it is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import nn

from ppo_lm.base_setup import LoadedModel, load_base
from ppo_lm.config.supervised_settings import SupervisedSettings
from ppo_lm.data.encoded import Encoded
from ppo_lm.fingerprint import fingerprint
from ppo_lm.live import screens
from ppo_lm.models import BaseModel
from ppo_lm.optimisation import LoopSettings, Optimiser, find_optimiser_parts
from ppo_lm.run.few_updates import FEW_UPDATES, few_updates
from ppo_lm.run.identity import Identity, identify_base, identify_optimiser_parts, identify_parts
from ppo_lm.run.run import Run
from ppo_lm.run.stateful import GlobalRandom, Weights
from ppo_lm.tracking import Column, MetricsFile, Recorder, early_stopping

LOSS = (Column("loss", "loss", ".4f"),)
LINES = 20  # progress lines per stage


def load_stage_base(config: SupervisedSettings, loaded: LoadedModel | None = None) -> BaseModel:
    """The base model that a configuration names, or the one that is loaded already; see `load_base`."""
    return load_base(
        config.model_name,
        config.dtype,
        config.device,
        seed=config.seed,
        allow_special_tokens=config.allow_special_tokens,
        loaded=loaded,
        shard=config.shard_base,
        quantisation=config.quantise_base,
    )


def loop_settings(config: SupervisedSettings) -> LoopSettings:
    """The settings of the training loop in a configuration."""
    return LoopSettings(
        learning_rate=config.learning_rate,
        epochs=config.epochs,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        max_steps=config.max_steps,
        max_grad_norm=config.max_grad_norm,
        epsilon=config.adam_epsilon,
        parts=find_optimiser_parts(config),
    )


def make_stage_run(
    config: SupervisedSettings,
    stage: str,
    base: BaseModel,
    train: Encoded,
    held_out: Encoded,
    *,
    resume: Path | None,
    overwrite: bool,
    allow_changes: bool,
    quiet: bool,
    recorders: Sequence[Recorder] = (),
    identity: Callable[[], Identity] = dict,
) -> Run:
    """The run of `ppo-lm STAGE` on the examples `train`. `identity`: in addition to that of the base and
    the data; see `Run`."""

    def identify() -> Identity:
        return {
            "the training data": fingerprint([dataclasses.astuple(tokens) for tokens in train.tokens]),
            "the held-out data": fingerprint([dataclasses.astuple(tokens) for tokens in held_out.tokens]),
            **identify_base(base),
            **identify_parts(identify_optimiser_parts(settings.parts)),
            **identity(),
        }

    settings, examples = loop_settings(config), len(train.tokens)
    steps = settings.steps(examples)
    run = Run(
        config,
        steps=steps,
        longer_than=lambda number: settings.longer_than(number, examples),
        command=f"{{}} {stage} --resume {{}}",
        identity=identify,
        resume=resume,
        overwrite=overwrite,
        allow_changes=allow_changes,
        save_every=config.save_every,
        keep_checkpoints=config.keep_checkpoints,
        recorders=[MetricsFile(), *screens(quiet), *early_stopping(config), *recorders],
    )
    longer_epochs = "" if 0 < config.max_steps < FEW_UPDATES else ", lower batch_size, or give more data"
    run.notices += few_updates(steps, f"raise {settings.longer_than(FEW_UPDATES - 1, examples)}{longer_epochs}")
    return run


def register_training(run: Run, weights: Sequence[nn.Parameter], settings: LoopSettings, examples: int) -> Optimiser:
    """Register what supervised training on `examples` examples changes: the weights, their optimiser, which is created
    here, and the random streams of dropout."""
    run.register("weights", Weights(weights))
    optimiser = settings.make_optimiser(weights, examples)
    run.register("optimiser", optimiser)
    run.register("random", GlobalRandom(), undo=True)
    return optimiser


def before_and_after(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What was measured before and after training, as `NAME_before` and `NAME_after`."""
    return {f"{name}_before": value for name, value in before.items()} | {
        f"{name}_after": value for name, value in after.items()
    }

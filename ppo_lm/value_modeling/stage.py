"""`ppo-lm value`: from a model, demonstrations and a reward to the value model that PPO starts from."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ppo_lm.base_setup import LoadedModel, check_can_quantise, check_can_shard, make_budget, set_up_roles
from ppo_lm.config import ValueConfig
from ppo_lm.data import DataReport, Demonstration, load_demonstrations
from ppo_lm.data.encoded import EncodedDemonstrations, encode_demonstrations
from ppo_lm.distributed import join
from ppo_lm.errors import CheckpointError, ConfigError, ModelError, Problems
from ppo_lm.fingerprint import fingerprint
from ppo_lm.optimisation import find_optimiser_parts
from ppo_lm.reading import Unreadable, read_json, user_path
from ppo_lm.rewards import Responses, Reward, RewardComputer, check_columns, load_reward, without_addresses
from ppo_lm.run import TrainingPrompts, check_output_dir, save_value, save_whole_value
from ppo_lm.run.identity import Identity, identify_parts
from ppo_lm.run.stage import (
    LINES,
    LOSS,
    before_and_after,
    load_stage_base,
    loop_settings,
    make_stage_run,
    register_training,
)
from ppo_lm.run.stateful import State
from ppo_lm.saving import write_json
from ppo_lm.tracking import Recorder, find_recorders
from ppo_lm.value_modeling.value_trainer import ScoredDemonstration, measure_values, train_value_model

SCORES_FILE = "scores.json"


def run_value(
    config: ValueConfig,
    quiet: bool = False,
    resume: Path | None = None,
    recorders: Sequence[Recorder] = (),
    overwrite: bool = False,
    allow_changes: bool = False,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> dict[str, float]:
    """Score the demonstrations, train, measure on held-out ones before and after, and save. Returns what was measured:
    `explained_variance` and `value_loss`, each with `_before` and `_after`; empty if none is held out. A single
    held-out demonstration has no `explained_variance`.

    Writes into `config.output_dir`: `value` (the model, for PPO's `value_model`), the scores, config, data report,
    metrics. Training starts where PPO's value model would: from the reward model, if the reward is one. A run that is
    already there is refused, or replaced with `overwrite`. `resume` is the folder of an interrupted run; if it has
    changed, it is refused, or continued with `allow_changes`. On SIGINT or SIGTERM, the run is saved after the current
    step, and `RunPaused` is raised.
    """
    join()
    loaded = LoadedModel.of(model, tokenizer)
    config = loaded.in_place_of(config) if loaded else config
    inputs = load_inputs(config, resume, overwrite)
    report = inputs.report
    base = load_stage_base(config, loaded)
    encoded = encode_demonstrations(
        base,
        inputs.demonstrations,
        report,
        max_prompt_tokens=config.max_prompt_tokens,
        max_tokens=config.max_tokens,
        empty_prompts=False,
    )
    train, held_out = encoded.split(config.held_out, config.seed, report)
    computer = RewardComputer(
        inputs.rewards,
        make_budget(base),
        config.reward_weights,
        config.reward_clip,
        timeout=config.reward_timeout,
    )
    value_model = set_up_roles(
        base,
        lora_r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        lora_targets=config.lora_targets,
        load_rewards=computer.make_ready,
        seed=config.seed,
    ).value
    assert value_model is not None  # `with_value` is True

    @functools.cache
    def identify_rewards() -> Identity:
        return {"the rewards": without_addresses(config.rewards), **identify_parts(computer.identity())}

    settings, scored = loop_settings(config), _Scores()
    with make_stage_run(
        config,
        "value",
        base,
        train,
        held_out,
        resume=resume,
        overwrite=overwrite,
        allow_changes=allow_changes,
        quiet=quiet,
        recorders=recorders,
        identity=identify_rewards,
    ) as run:
        folder = run.require_folder()
        run.register("scores", scored)
        scored.check_rewards(fingerprint(identify_rewards()))
        optimiser = register_training(run, value_model.parameters(), settings, len(train.tokens))
        run.save_in_checkpoints(lambda folder: save_value(value_model, folder / "value"))
        headline = f"value model on {config.model_name} ({base.description})"
        trained_on = TrainingPrompts(base.name, train.given)
        run.start(headline, reports=[report], trained_on=trained_on, columns=LOSS, lines=LINES)
        if scored.parts is None:
            run.say(f"scoring {len(train.tokens) + len(held_out.tokens):,} completions")
            with computer.budget.telling(run.say):
                scored.parts = [score_demonstrations(computer, part) for part in (train, held_out)]
        elif run.once(lambda: _recorded_scores(folder) != scored.parts):
            run.say(f"{SCORES_FILE} changed since the checkpoint; the checkpoint's scores count, and replace it")
        run.once(lambda: write_json(folder / SCORES_FILE, scored.parts))
        train_set, test = (add_scores(part, own) for part, own in zip((train, held_out), scored.parts))

        def measured() -> dict[str, float]:
            return measure_values(value_model, test, config.gamma, config.micro_batch_size)

        before = run.measure("before", len(test), measured, after=0)
        train_value_model(
            value_model, train_set, settings, gamma=config.gamma, seed=config.seed, optimiser=optimiser, progress=run
        )
        after = run.measure("after", len(test), measured, after=run.step)
        run.finish(lambda folder: save_whole_value(value_model, folder))
    return before_and_after(before, after)


class _Scores:
    """The demonstrations' scores, (training, held out), once there are any: an expensive reward is not called again by
    a resumed run."""

    def __init__(self) -> None:
        self.parts: list[list[float]] | None = None
        self.rewards: str | None = None  # a fingerprint

    def state_dict(self) -> State:
        """The scores, fp64, and the fingerprint of the rewards that gave them."""
        if self.parts is None:
            return {}
        scores = zip(("train", "held_out"), self.parts, strict=True)
        return {"rewards": self.rewards, **{name: torch.tensor(own, dtype=torch.float64) for name, own in scores}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the scores of a checkpoint."""
        self.parts = [state[name].tolist() for name in ("train", "held_out")] if state else None
        self.rewards = state.get("rewards")

    def check_rewards(self, rewards: str) -> None:
        """Raise `CheckpointError` if there are scores that other rewards gave."""
        if self.parts is not None and self.rewards not in (None, rewards):
            raise CheckpointError(
                "the rewards changed after they had scored the demonstrations, and the value model is trained on those "
                "scores; undo this, or start again with --overwrite"
            )
        self.rewards = rewards


def _recorded_scores(folder: Path) -> object:
    try:
        return read_json(folder / SCORES_FILE)
    except Unreadable:
        return None


class Inputs(NamedTuple):
    """What the configuration refers to by name."""

    rewards: list[Reward]
    demonstrations: list[Demonstration]
    report: DataReport


def load_inputs(config: ValueConfig, resume: Path | None = None, overwrite: bool = False) -> Inputs:
    """Load the inputs. All problems are raised as one error, before any model loads."""
    missing = [name for name in ("demonstrations", "reward") if not getattr(config, name)]
    if missing:
        raise ConfigError([f'{name} is not set; give one, or "embedded"' for name in missing], "ValueConfig")
    problems = Problems("ValueConfig")
    problems.attempt(check_output_dir, config, resume, overwrite)
    problems.attempt(user_path, config.model_name, "model_name", ModelError)
    problems.attempt(check_can_shard, config)
    problems.attempt(check_can_quantise, config.quantise_base, config.model_name)
    problems.attempt(find_recorders, config.recorders)
    problems.attempt(find_optimiser_parts, config)
    rewards = [problems.attempt(load_reward, reward) for reward in config.rewards]
    found = "demonstrations have only a prompt and a completion; choose another reward"
    for reward in rewards:
        if reward is not None:
            problems.attempt(check_columns, reward, (), "reward", found)
    loaded = problems.attempt(load_demonstrations, config.demonstrations, config, config.completion_column)
    problems.raise_all()
    demonstrations, report = loaded
    return Inputs(rewards, demonstrations, report)


def score_demonstrations(computer: RewardComputer, demonstrations: EncodedDemonstrations) -> list[float]:
    """Every demonstration's score."""
    if not demonstrations.tokens:
        return []
    responses = Responses.written(
        prompts=[text.prompt for text in demonstrations.texts],
        texts=[text.completion for text in demonstrations.texts],
        columns={},
        completion_ids=[tokens.completion_ids for tokens in demonstrations.tokens],
    )
    return computer.compute_rewards(responses).total.tolist()


def add_scores(demonstrations: EncodedDemonstrations, scores: list[float]) -> list[ScoredDemonstration]:
    return [
        ScoredDemonstration(tokens.prompt_ids, tokens.completion_ids, score)
        for tokens, score in zip(demonstrations.tokens, scores, strict=True)
    ]

"""`ppo-lm reward`: from a model and preferences to a reward model on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ppo_lm.base_setup import LoadedModel, add_adapter, check_can_quantise, check_can_shard, make_lora_config
from ppo_lm.config import RewardConfig
from ppo_lm.data import DataReport, Demonstration, Preference, Prompt, load_demonstrations, load_preferences
from ppo_lm.data.encoded import Encoded, encode_all
from ppo_lm.data.encoding import encode_for, encode_pair, fit_prompt
from ppo_lm.distributed import join
from ppo_lm.errors import ConfigError, DataError, ModelError, Problems
from ppo_lm.fingerprint import fingerprint
from ppo_lm.models import BaseModel, RewardModel
from ppo_lm.optimisation import find_optimiser_parts
from ppo_lm.reading import user_path
from ppo_lm.reward_modeling.report import RewardReport, write_report
from ppo_lm.reward_modeling.reward_trainer import Comparison, normalise, score_all, train_reward_model
from ppo_lm.run import TrainingPrompts, check_output_dir
from ppo_lm.run.stage import LINES, LOSS, load_stage_base, loop_settings, make_stage_run, register_training
from ppo_lm.saving import whole_folder, write_json
from ppo_lm.tracking import Recorder, find_recorders

EncodedPreferences = Encoded[Preference, Comparison]


def run_reward(
    config: RewardConfig,
    quiet: bool = False,
    resume: Path | None = None,
    recorders: Sequence[Recorder] = (),
    overwrite: bool = False,
    allow_changes: bool = False,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> dict[str, float]:
    """Train, normalise, measure on held-out comparisons, and save. Returns what was measured after training:
    `accuracy`, `calibration_error` and `length_correlation`; empty if none is held out. A single held-out comparison
    has no `length_correlation`.

    Writes into `config.output_dir`: `reward` (the model, for PPO's `reward`), report.md with pictures, report.json,
    config, data report, metrics. A run that is already there is refused, or replaced with `overwrite`. `resume` is the
    folder of an interrupted run; if it has changed, it is refused, or continued with `allow_changes`. On SIGINT or
    SIGTERM, the run is saved after the current step, and `RunPaused` is raised.
    """
    join()
    loaded = LoadedModel.of(model, tokenizer)
    config = loaded.in_place_of(config) if loaded else config
    inputs = load_inputs(config, resume, overwrite)
    base = load_stage_base(config, loaded)
    encoded = encode_preferences(base, inputs.preferences, config, inputs.reports[0])
    train, held_out = encoded.split(config.held_out, config.seed, inputs.reports[0])
    references = reference_sequences(base, inputs.demonstrations, train, config, inputs.reports[0])
    settings = loop_settings(config)

    with make_stage_run(
        config,
        "reward",
        base,
        train,
        held_out,
        resume=resume,
        overwrite=overwrite,
        allow_changes=allow_changes,
        quiet=quiet,
        recorders=recorders,
        identity=lambda: {
            "the completions to normalise on": fingerprint(references),
            "the sources of the held-out data": fingerprint([pair.source for pair in held_out.texts]),
        },
    ) as run:
        reward_model = set_up_reward_model(base, config)
        optimiser = register_training(run, reward_model.parameters(), settings, len(train.tokens))
        headline = f"reward model on {config.model_name} ({base.description})"
        trained_on = TrainingPrompts(base.name, train.given)
        run.start(headline, reports=inputs.reports, trained_on=trained_on, columns=LOSS, lines=LINES)
        run.measure("before", len(held_out.texts), lambda: measure(reward_model, held_out).headline(), after=0)
        train_reward_model(reward_model, train.tokens, settings, seed=config.seed, optimiser=optimiser, progress=run)
        result = measure(reward_model, held_out)  # before normalising, when score differences are still log-odds
        normalise(reward_model, references)
        run.measure("after", len(held_out.texts), result.headline, after=run.step)
        if result.chosen:
            run.say(f"accuracy {result.accuracy} on {len(result.chosen):,} held-out comparisons (95% interval)")
        run.finish(lambda folder: save(reward_model, result, folder))
    return result.headline()


def save(model: RewardModel, report: RewardReport, folder: Path) -> list[str]:
    """Write `folder/reward`, and the report. Returns what `RewardModel.save` does."""
    with whole_folder(folder / "reward") as place:
        notes = model.save(place)
    write_json(folder / "report.json", report.as_dict())
    write_report(report, folder)
    return notes


class Inputs(NamedTuple):
    """What the configuration refers to by name. `demonstrations`: to normalise on; None for those of the training
    data."""

    preferences: list[Preference]
    demonstrations: list[Demonstration] | None
    reports: list[DataReport]


def load_inputs(config: RewardConfig, resume: Path | None = None, overwrite: bool = False) -> Inputs:
    """Load the inputs. All problems are raised as one error, before any model loads."""
    problems = Problems("RewardConfig")
    problems.attempt(check_output_dir, config, resume, overwrite)
    problems.attempt(user_path, config.model_name, "model_name", ModelError)
    problems.attempt(check_can_shard, config)
    problems.attempt(check_can_quantise, config.quantise_base, config.model_name)
    problems.attempt(find_recorders, config.recorders)
    problems.attempt(find_optimiser_parts, config)
    preferences = demonstrations = None
    if config.preferences is None:
        problems.found.append(ConfigError.no_data("preferences"))
    else:
        columns = config.chosen_column, config.rejected_column, config.source_column
        preferences = problems.attempt(load_preferences, config.preferences, config, *columns)
    if config.demonstrations is not None:
        demonstrations = problems.attempt(load_demonstrations, config.demonstrations, config, config.completion_column)
    problems.raise_all()
    assert preferences is not None  # or `raise_all` would have raised
    if demonstrations is None:
        return Inputs(preferences[0], None, [preferences[1]])
    return Inputs(preferences[0], demonstrations[0], [preferences[1], demonstrations[1]])


def set_up_reward_model(base: BaseModel, config: RewardConfig) -> RewardModel:
    """A new adapter and head on the base."""
    torch.manual_seed(config.seed)
    lora = make_lora_config(config.lora_r, config.lora_alpha, config.lora_dropout, config.lora_targets)
    add_adapter(base, "reward", lora)
    return RewardModel(base)


def encode_preferences(
    base: BaseModel, preferences: list[Preference], config: RewardConfig, report: DataReport
) -> EncodedPreferences:
    """Token ids of every comparison whose longer side fits into `max_tokens`."""

    def encode(pair: Preference) -> tuple[Comparison, int]:
        tokens = Comparison(
            *(encode_sequence(base, pair.prompt, completion) for completion in (pair.chosen, pair.rejected))
        )
        return tokens, max(len(tokens.chosen_ids), len(tokens.rejected_ids))

    limit = min(config.max_tokens, base.context_length)
    return encode_all(
        preferences,
        base,
        encode,
        report,
        role="preferences",
        max_prompt_tokens=config.max_prompt_tokens,
        limit=limit,
    )


def encode_sequence(base: BaseModel, prompt: Prompt, completion: str) -> list[int]:
    """Token ids of prompt, completion and end token, as a reward model reads them."""
    prompt_ids, completion_ids = encode_pair(base, prompt, completion)
    return prompt_ids + completion_ids


def reference_sequences(
    base: BaseModel,
    demonstrations: list[Demonstration] | None,
    train: EncodedPreferences,
    config: RewardConfig,
    report: DataReport,
) -> list[list[int]]:
    """The sequences that scores are normalised on: demonstrations that fit, or the chosen completions of the training
    data, whose `report` is given. Raises `DataError` if there are fewer than two."""
    if demonstrations is None:
        found = [tokens.chosen_ids for tokens in train.tokens[: config.normalise_on]]
        left_out = f" ({report.dropped[-1]})" if report.dropped else ""
        why = (
            f"of {report.rows} preferences, {report.held_out} held out and {len(report.dropped)} left out{left_out}; "
            "give more, or demonstrations to normalise on"
        )
    else:
        limit = min(config.max_tokens, base.context_length)
        cut = [
            (fit_prompt(base, d.prompt, config.max_prompt_tokens), d.completion)
            for d in demonstrations[: config.normalise_on]
        ]
        encoded = [encode_sequence(base, prompt, completion) for prompt, completion in cut if prompt is not None]
        found = [ids for ids in encoded if len(ids) <= limit]
        why = (
            f"of {len(cut)} demonstrations, {len(cut) - len(found)} did not fit into max_tokens or the model's "
            f"context, {limit}; give more, or shorter ones"
        )
    if len(found) < 2:
        left = len(found) or "none"
        raise DataError(f"normalising the scores takes at least two reference completions, but {left} is left: {why}")
    return found


def measure(model: RewardModel, held_out: EncodedPreferences) -> RewardReport:
    """Score both sides of every held-out comparison."""
    prompts = [encode_for(model.base, pair.prompt) for pair in held_out.texts]

    def lengths(sides: list[list[int]]) -> list[int]:
        return [len(ids) - len(prompt) for ids, prompt in zip(sides, prompts)]

    chosen, rejected = [t.chosen_ids for t in held_out.tokens], [t.rejected_ids for t in held_out.tokens]
    return RewardReport(
        score_all(model, chosen).tolist(),
        score_all(model, rejected).tolist(),
        lengths(chosen),
        lengths(rejected),
        [pair.source for pair in held_out.texts],
    )

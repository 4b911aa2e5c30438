"""`ppo-lm sft`: from a model and demonstrations to the model that PPO starts from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ppo_lm.base_setup import (
    LoadedModel,
    add_adapter,
    check_can_quantise,
    check_can_shard,
    make_budget,
    make_lora_config,
    rehearse_training,
)
from ppo_lm.config import SFTConfig
from ppo_lm.data import DataReport, Demonstration, load_demonstrations
from ppo_lm.data.encoded import EncodedDemonstrations, encode_demonstrations
from ppo_lm.distributed import join
from ppo_lm.errors import ConfigError, ModelError, Problems, require
from ppo_lm.evaluation import rouge
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.models import BaseModel, PolicyModel
from ppo_lm.optimisation import find_optimiser_parts
from ppo_lm.reading import user_path
from ppo_lm.rollout import SamplingSettings, write_completions
from ppo_lm.run import TrainingPrompts, check_output_dir, gathered_to_save, save_adapter, save_models
from ppo_lm.run.stage import (
    LINES,
    LOSS,
    before_and_after,
    load_stage_base,
    loop_settings,
    make_stage_run,
    register_training,
)
from ppo_lm.sft.sft_trainer import completion_loss, train_sft
from ppo_lm.tracking import Recorder, find_recorders

NEAR_GREEDY = 0.01  # temperature (2403.17031, detail 26)


def run_sft(
    config: SFTConfig,
    quiet: bool = False,
    resume: Path | None = None,
    recorders: Sequence[Recorder] = (),
    overwrite: bool = False,
    allow_changes: bool = False,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> dict[str, float]:
    """Train, measure on held-out demonstrations before and after, and save. Returns what was measured: `loss_before`,
    `loss_after`, and with `rouge_samples` the ROUGE scores in the same way; empty if none is held out.

    Writes into `config.output_dir`: `merged` (a plain transformers model), `adapter` if lora_r is above 0, config, data
    report, metrics. A run that is already there is refused, or replaced with `overwrite`. `resume` is the folder of an
    interrupted run; if it has changed, it is refused, or continued with `allow_changes`. On SIGINT or SIGTERM, the run
    is saved after the current step, and `RunPaused` is raised.
    """
    join()
    loaded = LoadedModel.of(model, tokenizer)
    config = loaded.in_place_of(config) if loaded else config
    demonstrations, report = load_inputs(config, resume, overwrite)
    base = load_stage_base(config, loaded)
    encoded = encode_demonstrations(
        base, demonstrations, report, max_prompt_tokens=config.max_prompt_tokens, max_tokens=config.max_tokens
    )
    train, held_out = encoded.split(config.held_out, config.seed, report)
    settings = loop_settings(config)

    budget = make_budget(base)
    run = make_stage_run(
        config,
        "sft",
        base,
        train,
        held_out,
        resume=resume,
        overwrite=overwrite,
        allow_changes=allow_changes,
        quiet=quiet,
        recorders=recorders,
    )
    with run, budget.telling(run.say):
        policy = set_up_policy(base, config)
        optimiser = register_training(run, policy.parameters(), settings, len(train.tokens))
        run.save_in_checkpoints(lambda folder: save_adapter(policy, folder / "adapter"))
        run.start(
            f"SFT on {config.model_name} ({base.description})",
            reports=[report],
            trained_on=TrainingPrompts(base.name, train.given),
            columns=LOSS,
            lines=LINES,
        )

        def measured() -> dict[str, float]:
            return measure(policy, held_out, config, budget)

        before = run.measure("before", len(held_out.texts), measured, after=0)
        train_sft(policy, train.tokens, settings, seed=config.seed, optimiser=optimiser, progress=run)
        after = run.measure("after", len(held_out.texts), measured, after=run.step)
        with gathered_to_save(policy):
            run.finish(lambda folder: save_models(policy, folder))
    return before_and_after(before, after)


def load_inputs(
    config: SFTConfig, resume: Path | None = None, overwrite: bool = False
) -> tuple[list[Demonstration], DataReport]:
    """The demonstrations, and the report on them. All problems are raised as one error, before any model loads."""
    problems = Problems("SFTConfig")
    problems.attempt(check_output_dir, config, resume, overwrite)
    problems.attempt(user_path, config.model_name, "model_name", ModelError)
    problems.attempt(check_can_shard, config)
    problems.attempt(check_can_quantise, config.quantise_base, config.model_name)
    problems.attempt(find_recorders, config.recorders)
    problems.attempt(find_optimiser_parts, config, config.shards_trained_weights)
    if config.rouge_samples:
        what = f"ROUGE (rouge_samples {config.rouge_samples}; 0 turns it off)"
        problems.attempt(require, "torchmetrics", what, "rouge")
    if config.demonstrations is None:
        problems.found.append(ConfigError.no_data("demonstrations"))
        loaded = None
    else:
        loaded = problems.attempt(load_demonstrations, config.demonstrations, config, config.completion_column)
    problems.raise_all()
    assert loaded is not None  # or `raise_all` would have raised
    return loaded


def set_up_policy(base: BaseModel, config: SFTConfig) -> PolicyModel:
    """All weights of the base if lora_r is 0, otherwise a new adapter on it."""
    torch.manual_seed(config.seed)
    if config.lora_r == 0:
        base.network.requires_grad_(True)
        rehearse_training(base, None)
        return PolicyModel(base, None)
    add_adapter(
        base, "policy", make_lora_config(config.lora_r, config.lora_alpha, config.lora_dropout, config.lora_targets)
    )
    return PolicyModel(base)


def measure(
    policy: PolicyModel, held_out: EncodedDemonstrations, config: SFTConfig, budget: MemoryBudget
) -> dict[str, float]:
    """The loss on held-out demonstrations, and ROUGE of near-greedy completions of the first `rouge_samples` prompts
    that leave room for one, against the human ones."""
    if not held_out.tokens:
        return {}
    numbers = {"loss": completion_loss(policy, held_out.tokens, config.micro_batch_size)}
    room = policy.base.context_length - config.max_new_tokens
    fitting = [text for text, tokens in zip(held_out.texts, held_out.tokens) if len(tokens.prompt_ids) <= room]
    texts = fitting[: config.rouge_samples]
    if texts:
        sampling = SamplingSettings(config.max_new_tokens, NEAR_GREEDY)
        prompts = [d.prompt for d in texts]
        written = write_completions(policy, prompts, sampling, config.batch_size, config.seed, budget)
        numbers |= rouge(written, [d.completion for d in texts])
    return numbers

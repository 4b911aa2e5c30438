"""`ppo-lm value`: from a model, demonstrations and a reward to the value model that PPO starts from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from ppo_lm.base_setup import load_base, set_up_roles
from ppo_lm.config import ValueConfig
from ppo_lm.data import DataReport, Demonstration, load_demonstrations
from ppo_lm.data.encoded import Encoded
from ppo_lm.data.prompts import fingerprint
from ppo_lm.errors import ConfigError, Problems, RewardError, writing
from ppo_lm.ppo_trainer.inputs import load_reward, make_ready, missing_columns
from ppo_lm.rewards import Scorer
from ppo_lm.rewards.reward_computer import RewardComputer
from ppo_lm.run import Interrupts, StageSaver, remove_checkpoints
from ppo_lm.sft.stage import encode_demonstrations
from ppo_lm.tracking import StageLog, check_output_dir
from ppo_lm.tracking.run_folder import write_json
from ppo_lm.value_modeling.value_trainer import ScoredDemonstration, measure_values, train_value_model

SCORES_FILE = "scores.json"


def run_value(config: ValueConfig, quiet: bool = False, resume: Path | None = None) -> dict[str, float]:
    """Score the demonstrations, train, measure on held-out ones before and after, and save. Returns what was measured,
    as `explained_variance_after`, ….

    Writes into `config.output_dir`: `value` (the model, for PPO's `value_model`), the scores, config, data report,
    metrics. Training starts where PPO's value model would: from the reward model, if that is what scores. `resume` is
    the folder of a run with the same settings that did not end. Raises `RunPaused`, with the run saved, after the step
    in which SIGINT or SIGTERM came.
    """
    rewards, demonstrations, report = load_inputs(config)
    base = load_base(config.model_name, config.dtype, config.device, seed=config.seed)
    train, held_out = encode_demonstrations(base, demonstrations, config, report).split(
        config.held_out, config.seed, report
    )
    saver = StageSaver(
        config,
        fingerprint([dataclasses.astuple(tokens) for tokens in train.tokens]),
        resume,
        "ppo-lm value --resume {}",
    )
    roles = set_up_roles(
        base,
        lora_r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        lora_targets=config.lora_targets,
        reward_folders=[reward for reward in rewards if isinstance(reward, Path)],
        seed=config.seed,
    )
    rewards, model = make_ready(rewards, roles.rewards, base.device), roles.value
    computer = RewardComputer(rewards, weights=config.reward_weights, clip=config.reward_clip)

    with StageLog(config, config.output_dir, quiet, resume=resume and (resume, saver.step)) as log:
        log.say(
            f"value model on {config.model_name} ({base.description})"
            + (f", {saver.step} steps done" if resume else "")
        )
        log.data(report)
        log.warn(saver.damage)
        computer.budget.say = log.say
        scores = read_scores(resume)
        if scores is None:
            log.say(f"scoring {len(train.tokens) + len(held_out.tokens):,} completions")
            scores = [score_demonstrations(computer, part) for part in (train, held_out)]
        write_json(log.folder / SCORES_FILE, scores)
        scored, test = (add_scores(part, own) for part, own in zip((train, held_out), scores))
        before = log.evaluation(0, "before", lambda: measure_values(model, test, config.gamma, config.micro_batch_size))
        with Interrupts() as interrupts:
            train_value_model(
                model,
                scored,
                gamma=config.gamma,
                seed=config.seed,
                learning_rate=config.learning_rate,
                epochs=config.epochs,
                batch_size=config.batch_size,
                micro_batch_size=config.micro_batch_size,
                max_steps=config.max_steps,
                max_grad_norm=config.max_grad_norm,
                log=log.step,
                saver=saver.start(log.folder, model.parameters(), interrupts),
            )
        after = log.evaluation(
            log.last_step, "after", lambda: measure_values(model, test, config.gamma, config.micro_batch_size)
        )
        with writing(log.folder):
            model.save(log.folder / "value")
        remove_checkpoints(log.folder)
        log.say_where()
    return {f"{name}_before": value for name, value in before.items()} | {
        f"{name}_after": value for name, value in after.items()
    }


def load_inputs(config: ValueConfig) -> tuple[list[Scorer | Path], list[Demonstration], DataReport]:
    """(rewards, a reward model of ours as its folder; demonstrations; report). All problems are raised as one error,
    before any model loads."""
    missing = [name for name in ("demonstrations", "reward") if not getattr(config, name)]
    if missing:
        raise ConfigError([f'{name} is not set; name one, or "embedded"' for name in missing], "ValueConfig")
    problems = Problems("ValueConfig")
    problems.attempt(check_output_dir, config.output_dir)
    rewards = [problems.attempt(load_reward, reward) for reward in config.rewards]
    for name, reward in zip(config.rewards, rewards):
        problems.attempt(check_needs, name, reward)
    demonstrations, report = problems.attempt(
        load_demonstrations, config.demonstrations, config, config.completion_column
    ) or (None, None)
    problems.raise_all()
    return rewards, demonstrations, report


def check_needs(name: str, reward: Scorer | Path | None) -> None:
    """Raise `RewardError` if a function needs a column of the data."""
    needed = missing_columns(reward, [])
    if needed:
        raise RewardError(
            f"reward {name!r} needs {', '.join(map(repr, needed))}, but demonstrations have a prompt and a "
            "completion alone; name another reward"
        )


def score_demonstrations(computer: RewardComputer, demonstrations: Encoded) -> list[float]:
    """Every demonstration's score, ended as it is."""
    if not demonstrations.tokens:
        return []
    prompts, completions = (
        [text.prompt for text in demonstrations.texts],
        [text.completion for text in demonstrations.texts],
    )
    columns = {
        "terminated": [True] * len(prompts),
        "completion_ids": [tokens.completion_ids for tokens in demonstrations.tokens],
    }
    return computer.compute_rewards(prompts, completions, columns).tolist()


def add_scores(demonstrations: Encoded, scores: list[float]) -> list[ScoredDemonstration]:
    return [
        ScoredDemonstration(tokens.prompt_ids, tokens.completion_ids, score)
        for tokens, score in zip(demonstrations.tokens, scores, strict=True)
    ]


def read_scores(folder: Path | None) -> list[list[float]] | None:
    """What a run that did not end had scored, in training and held out, so that a reward that costs is not asked twice;
    None if there is nothing to read."""
    try:
        return json.loads((folder / SCORES_FILE).read_text(encoding="utf-8")) if folder else None
    except (OSError, ValueError):
        return None

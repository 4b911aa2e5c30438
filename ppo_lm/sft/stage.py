"""`ppo-lm sft`: from a model and demonstrations to the model that PPO starts from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from ppo_lm.base_setup import add_adapter, load_base, make_lora_config
from ppo_lm.config import SFTConfig
from ppo_lm.data import DataReport, Demonstration, load_demonstrations
from ppo_lm.data.encoded import Encoded, encode_all
from ppo_lm.data.encoding import encode_pair
from ppo_lm.data.prompts import fingerprint
from ppo_lm.errors import ConfigError, require
from ppo_lm.evaluation import rouge
from ppo_lm.models import BaseModel, PolicyModel
from ppo_lm.rollout import SamplingSettings, write_completions
from ppo_lm.run import Interrupts, StageSaver, remove_checkpoints, save_models
from ppo_lm.sft.sft_trainer import EncodedDemonstration, completion_loss, train_sft
from ppo_lm.tracking import StageLog, check_output_dir

NEAR_GREEDY = 0.01  # temperature (2403.17031, detail 26)


def run_sft(config: SFTConfig, quiet: bool = False, resume: Path | None = None) -> dict[str, float]:
    """Train, measure on held-out demonstrations before and after, and save. Returns what was measured, as
    `loss_before`, `loss_after`, ….

    Writes into `config.output_dir`: `merged` (a plain transformers model), `adapter` if lora_r is above 0, config, data
    report, metrics. `resume` is the folder of a run with the same settings that did not end. Raises `RunPaused`, with
    the run saved, after the step in which SIGINT or SIGTERM came.
    """
    if config.demonstrations is None:
        raise ConfigError(['demonstrations is not set; name a file, a hub data set, or "embedded"'], "SFTConfig")
    check_output_dir(config.output_dir)
    if config.rouge_samples:
        require("torchmetrics", f"ROUGE (rouge_samples {config.rouge_samples}; 0 does without)")
    demonstrations, report = load_demonstrations(config.demonstrations, config, config.completion_column)
    base = load_base(config.model_name, config.dtype, config.device, seed=config.seed)
    train, held_out = encode_demonstrations(base, demonstrations, config, report).split(
        config.held_out, config.seed, report
    )
    saver = StageSaver(
        config, fingerprint([dataclasses.astuple(tokens) for tokens in train.tokens]), resume, "ppo-lm sft --resume {}"
    )

    with (
        StageLog(config, config.output_dir, quiet, resume=resume and (resume, saver.step)) as log,
        Interrupts() as interrupts,
    ):
        log.say(f"SFT on {config.model_name} ({base.description})" + (f", {saver.step} steps done" if resume else ""))
        log.data(report)
        log.warn(saver.damage)
        policy = set_up_policy(base, config)
        before = log.evaluation(0, "before", lambda: measure(policy, held_out, config))
        train_sft(
            policy,
            train.tokens,
            seed=config.seed,
            learning_rate=config.learning_rate,
            epochs=config.epochs,
            batch_size=config.batch_size,
            micro_batch_size=config.micro_batch_size,
            max_steps=config.max_steps,
            max_grad_norm=config.max_grad_norm,
            log=log.step,
            saver=saver.start(log.folder, policy.parameters(), interrupts),
        )
        after = log.evaluation(log.last_step, "after", lambda: measure(policy, held_out, config))
        log.warn(save_models(policy, log.folder))
        remove_checkpoints(log.folder)
        log.say_where()
    return {f"{name}_before": value for name, value in before.items()} | {
        f"{name}_after": value for name, value in after.items()
    }


def set_up_policy(base: BaseModel, config: SFTConfig) -> PolicyModel:
    """All weights of the base for lora_r 0, otherwise a fresh adapter on it."""
    torch.manual_seed(config.seed)
    if config.lora_r == 0:
        base.network.requires_grad_(True)
        return PolicyModel(base, None)
    add_adapter(
        base, "policy", make_lora_config(config.lora_r, config.lora_alpha, config.lora_dropout, config.lora_targets)
    )
    return PolicyModel(base)


def encode_demonstrations(
    base: BaseModel, demonstrations: list[Demonstration], config: SFTConfig, report: DataReport
) -> Encoded:
    """Token ids of every demonstration that fits into `max_tokens`."""
    tokenizer = base.tokenizer

    def encode(demonstration: Demonstration) -> tuple[EncodedDemonstration, int]:
        tokens = EncodedDemonstration(
            *encode_pair(tokenizer, base.eos_token_ids, demonstration.prompt, demonstration.completion)
        )
        return tokens, len(tokens)

    limit = min(config.max_tokens, base.context_length)
    return encode_all(
        demonstrations,
        tokenizer,
        encode,
        report,
        role="demonstrations",
        max_prompt_tokens=config.max_prompt_tokens,
        limit=limit,
    )


def measure(policy: PolicyModel, held_out: Encoded, config: SFTConfig) -> dict[str, float]:
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
        written = write_completions(policy, [d.prompt for d in texts], sampling, config.batch_size, config.seed)
        numbers |= rouge(written, [d.completion for d in texts])
    return numbers

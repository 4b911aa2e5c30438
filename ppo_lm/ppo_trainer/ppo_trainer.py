"""The loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ppo_lm.advantage import GAEAdvantage, ReturnCalculator, TDError
from ppo_lm.base_setup import load_base, set_up_roles
from ppo_lm.checkpointing import save_models
from ppo_lm.config import PPOConfig
from ppo_lm.data import PromptSet
from ppo_lm.data.encoding import encode_prompt
from ppo_lm.errors import ConfigError
from ppo_lm.evaluation import Evaluation, evaluate
from ppo_lm.ops import masked_whiten
from ppo_lm.ppo_trainer.generator import SequenceGenerator, check_lengths
from ppo_lm.ppo_trainer.inputs import check_batch, check_prompts, load_inputs
from ppo_lm.ppo_trainer.metrics import describe_rollout
from ppo_lm.ppo_trainer.model_trainer import ModelTrainer
from ppo_lm.ppo_trainer.reward_computer import RewardComputer
from ppo_lm.ppo_trainer.value_adder import ValueAdder
from ppo_lm.reward_kl import KLDivergence, RewardAdjuster
from ppo_lm.rollout import SamplingSettings
from ppo_lm.tracking import RunLog


class PPOTrainer:
    """PPO on a language model: policy, reference, value and reward on one shared base.

    `reward` and `monitor` take Python callables in place of the configuration's names: `fn(prompts, completions, **columns)`.
    """

    def __init__(self, config: PPOConfig, reward: Callable | None = None, monitor: Callable | None = None):
        inputs = load_inputs(config, reward, monitor)
        self.config, self.monitor, self.prompts = config, inputs.monitor, inputs.prompts
        self.base = load_base(config.model_name, config.dtype, config.device, full_weights=config.lora_r == 0)
        self.roles = set_up_roles(
            self.base, lora_r=config.lora_r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout,
            lora_targets=config.lora_targets, reward_folder=inputs.reward_folder, seed=config.seed,
        )  # fmt: skip
        sampling = SamplingSettings(config.max_new_tokens, config.temperature, config.top_k, config.top_p)
        size = config.micro_batch_size
        self.generator = SequenceGenerator(self.roles.policy, self.roles.sft, sampling, size, config.seed)
        self.reward_computer = RewardComputer(self.roles.reward or inputs.reward, size)
        self.kl_divergence = KLDivergence(config.kl_estimator)
        self.reward_adjuster = RewardAdjuster(config.kl_coef, config.missing_eos_score, config.whiten_rewards)
        self.value_adder = ValueAdder(self.roles.value, size)
        self.td_error = TDError(config.gamma)
        self.gae_advantage = GAEAdvantage()
        self.return_calculator = ReturnCalculator(config.gamma)
        self.model_trainer = ModelTrainer(self.roles.policy, self.roles.value, config)

    def ppo_step(self, prompts: list[str], columns: Mapping[str, list] | None = None) -> dict:
        """Sample, score and train on one batch of prompts. `columns`: lists as long, passed on to reward functions.

        Returns `generated_texts` (B texts), `rewards` (their B scores), `value_loss`, `policy_loss`, and the step's other metrics.
        """
        config, started = self.config, time.perf_counter()
        check_batch(prompts, columns, config.mini_batches)
        sa_pairs, texts = self.generator.generate_sequences(prompts)
        scores = self.reward_computer.compute_rewards(prompts, texts, columns, sa_pairs)
        sa_pairs = sa_pairs.with_columns(scores=scores)
        sa_pairs = self.kl_divergence.add_kl_to_sa_pairs(sa_pairs)
        sa_pairs = self.reward_adjuster.adjust_rewards_with_kl(sa_pairs)
        sa_pairs = self.value_adder.add_values_to_sa_pairs(sa_pairs)
        sa_pairs = sa_pairs.with_columns(td_errors=self.td_error.compute_td_errors(sa_pairs))
        sa_pairs = sa_pairs.with_columns(advantages=self.gae_advantage.compute_gae_advantages(sa_pairs, config.gamma, config.lam))
        sa_pairs = self.return_calculator.add_reward_to_go(sa_pairs)
        sa_pairs = self.return_calculator.add_returns(sa_pairs)
        if config.whiten_advantages:
            sa_pairs = sa_pairs.with_columns(advantages=masked_whiten(sa_pairs.advantages, sa_pairs.action_mask))
        value_metrics = self.model_trainer.train_value_model(sa_pairs)
        policy_metrics = self.model_trainer.train_policy_model(sa_pairs)

        results = {"generated_texts": texts, "rewards": scores.tolist(), **describe_rollout(sa_pairs), **value_metrics, **policy_metrics}
        if self.monitor is not None:
            seen = self.monitor(prompts, texts, {**(columns or {}), "terminated": sa_pairs.terminated.tolist()})
            results["monitor"] = sum(seen) / len(seen)
        results["seconds"] = time.perf_counter() - started
        results["tokens_per_second"] = len(sa_pairs) / results["seconds"]
        return results

    def train(self, prompts: PromptSet | list[str] | None = None, log: RunLog | None = None) -> dict[str, list[Evaluation]]:
        """A whole run of `config.steps` steps over `prompts` (None: `config.prompts`), with evaluations on prompts held out of them.

        Writes `config.output_dir` and prints progress through `log`. Returns the evaluations, by name, first to last.
        """
        config = self.config
        train_set, held_out = self._prompt_sets(prompts)
        log = log or RunLog(config, monitor_name=self.monitor and self.monitor.name)
        log.start(f"{config.model_name} ({self.base.description})")
        evaluations = {}
        batches = train_set.batches(config.batch_size, config.seed)
        self._evaluate(held_out, 0, evaluations, log)
        for step in range(1, config.steps + 1):
            batch = next(batches)
            log.step(step, batch.prompts, self.ppo_step(batch.prompts, batch.columns))
            if step == config.steps or (config.eval_every and step % config.eval_every == 0):
                self._evaluate(held_out, step, evaluations, log)
        if log.folder:
            self.save(log.folder)
        log.finish()
        return evaluations

    def save(self, folder: str | Path) -> None:
        """Write `adapter/` (plain PEFT) and `merged/` (plain transformers, if `save_merged`) into `folder`; lora_r 0 has only the latter."""
        save_models(self.roles.policy, Path(folder), merged=self.config.save_merged)

    def _prompt_sets(self, prompts: PromptSet | list[str] | None) -> tuple[PromptSet, PromptSet]:
        config = self.config
        prompts = self.prompts if prompts is None else prompts
        if prompts is None:
            raise ConfigError(['prompts is not set; name a file, a data set or "embedded", or pass prompts to train()'])
        if not isinstance(prompts, PromptSet):
            check_prompts(prompts)
            prompts = PromptSet(list(prompts))
        check_lengths([encode_prompt(self.base.tokenizer, prompt) for prompt in prompts.prompts], config.max_new_tokens, self.base.context_length)
        return prompts.split(config.eval_prompts, config.seed)

    def _evaluate(self, held_out: PromptSet, step: int, evaluations: dict[str, list[Evaluation]], log: RunLog) -> None:
        if not len(held_out):
            return
        sampling = self.generator.sampling
        kinds = {
            "sampled": sampling,
            "near_greedy": SamplingSettings(sampling.max_new_tokens, self.config.eval_temperature),
        }
        for name, settings in kinds.items():
            evaluation = evaluate(self._evaluation_generator(settings), self.reward_computer, self.monitor, held_out, self.config.batch_size)
            kl = evaluation.kl if settings == sampling else None  # at another temperature it compares two other distributions
            evaluations.setdefault(name, []).append(replace(evaluation, step=step, kl=kl))
        log.evaluation(step, held_out, {name: results[-1] for name, results in evaluations.items()})

    def _evaluation_generator(self, settings: SamplingSettings) -> SequenceGenerator:
        """A generator with a random stream of its own, so that evaluating changes nothing in training and every evaluation sees the same noise."""
        return SequenceGenerator(self.roles.policy, self.roles.sft, settings, self.config.micro_batch_size, self.config.seed)

"""The loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ppo_lm.advantage import GAEAdvantage, GroupAdvantage, ReturnCalculator, TDError, length_adaptive_lam
from ppo_lm.base_setup import load_base, set_up_roles
from ppo_lm.config import PPOConfig
from ppo_lm.data import DataReport, Prompt, PromptSet, fingerprint, load_prompts
from ppo_lm.errors import ConfigError, Interrupted, NumericalFault, RewardError, StorageError
from ppo_lm.evaluation import evaluate, is_best
from ppo_lm.ops import masked_whiten
from ppo_lm.ppo_trainer.faults import check_pairs
from ppo_lm.ppo_trainer.generator import SequenceGenerator
from ppo_lm.ppo_trainer.inputs import check_batch, check_prompts, fit_prompts, load_inputs, make_ready
from ppo_lm.ppo_trainer.metrics import describe_cost, describe_rollout, describe_scores
from ppo_lm.ppo_trainer.model_trainer import ModelTrainer
from ppo_lm.ppo_trainer.run_guard import RunGuard
from ppo_lm.ppo_trainer.run_state import Evaluations, put_state, random_states, restore_random_states, take_state
from ppo_lm.ppo_trainer.value_adder import NoValues, ValueAdder
from ppo_lm.reward_kl import KLController, KLDivergence, RewardAdjuster
from ppo_lm.rewards import response_columns
from ppo_lm.rewards.reward_computer import RewardComputer
from ppo_lm.rollout import SamplingSettings, describe_engine, pick_engine
from ppo_lm.run import Interrupts, load_checkpoint, remove_checkpoints, save_best, save_models
from ppo_lm.tracking import Floor, Passes, PhaseClock, RunLog, measure_machine
from ppo_lm.types import SAPairs


class PPOTrainer:
    """PPO on a language model: policy, reference, value and rewards on one shared base.

    `reward` and `monitor` take Python callables in place of the configuration's names, `reward` one or several:
    `fn(prompts, completions, **columns)`.
    """

    def __init__(
        self, config: PPOConfig, reward: Callable | Sequence[Callable] | None = None, monitor: Callable | None = None
    ):
        inputs = load_inputs(config, reward, monitor)
        self.has_callables = reward is not None or monitor is not None
        self.config, self.prompts, self.report = config, inputs.prompts, inputs.report
        self.base = load_base(config.model_name, config.dtype, config.device, seed=config.seed, fast=config.fast)
        self.roles = set_up_roles(
            self.base,
            lora_r=config.lora_r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            lora_targets=config.lora_targets,
            reward_folders=[r for r in inputs.rewards if isinstance(r, Path)],
            seed=config.seed,
            shared_trunk=config.value_backbone == "shared",
            value_folder=inputs.value,
        )
        sampling = SamplingSettings(config.max_new_tokens, config.temperature, config.top_k, config.top_p)
        for model in (self.roles.policy, self.roles.value) if config.gradient_checkpointing else ():
            model.base.checkpoint_activations()
        self.clock = PhaseClock(self.base.device)
        self.generator = self._make_generator(sampling, self.clock)
        size = config.micro_batch_tokens
        *rewards, self.monitor = make_ready([*inputs.rewards, inputs.monitor], self.roles.rewards, self.base.device)
        self.reward_computer = RewardComputer(
            rewards, size, config.reward_weights, config.reward_clip, config.reward_normalise
        )
        self.evaluation_rewards = RewardComputer(
            rewards, size, config.reward_weights, 0.0 if config.reward_normalise else config.reward_clip
        )
        self.kl_controller = KLController(config.kl_coef, config.kl_target, config.kl_horizon)
        self.kl_divergence = KLDivergence(config.kl_estimator)
        self.reward_adjuster = RewardAdjuster(config.kl_coef, config.missing_eos_score, config.whiten_rewards)
        critic = config.advantage_estimator == "gae"
        self.value_adder = ValueAdder(self.roles.value, size) if critic else NoValues()
        self.whiten_advantages = critic if config.whiten_advantages is None else config.whiten_advantages
        self.td_error = TDError(config.gamma)
        self.gae_advantage = GAEAdvantage()
        self.group_advantage = (
            None if critic else GroupAdvantage(config.advantage_estimator, config.responses_per_prompt)
        )
        self.return_calculator = ReturnCalculator(config.gamma)
        self.model_trainer = ModelTrainer(self.roles.policy, self.roles.value, config)
        self.floor = Floor(
            self.base, measure_machine(self.base.device, self.base.dtype), self._passes(), config.rollout_slots
        )

    def ppo_step(self, prompts: list[Prompt], columns: Mapping[str, list] | None = None) -> dict:
        """Sample, score and train on one batch of prompts, each `responses_per_prompt` times in a row. `columns`: lists
        as long, passed on to reward functions.

        Returns `generated_texts` (B texts), `rewards` (their B scores), `value_loss`, `policy_loss` (of what was
        trained), and the step's other metrics.
        """
        config, clock, kl_coef = self.config, self.clock, self.kl_controller.coef
        check_batch(prompts, columns, config.mini_batches, config.responses_per_prompt)
        clock.start()
        sa_pairs, texts = self.generator.generate_sequences(prompts)
        clock.lap("scoring")
        scores = self.reward_computer.compute_rewards(prompts, texts, columns, sa_pairs)
        monitored = self._monitor(prompts, texts, columns, sa_pairs)
        clock.lap("reward")
        sa_pairs = sa_pairs.with_columns(scores=scores)
        sa_pairs = self.kl_divergence.add_kl_to_sa_pairs(sa_pairs)
        self.reward_adjuster.kl_coef = kl_coef if config.kl_in == "reward" else 0.0
        sa_pairs = self.reward_adjuster.adjust_rewards_with_kl(sa_pairs)
        sa_pairs = self.value_adder.add_values_to_sa_pairs(sa_pairs)
        sa_pairs = sa_pairs.with_columns(td_errors=self.td_error.compute_td_errors(sa_pairs))
        lam = length_adaptive_lam(sa_pairs.lengths, config.lam_length_scale) if config.lam_length_scale else config.lam
        if self.group_advantage:
            advantages = self.group_advantage.compute_group_advantages(sa_pairs)
        else:
            advantages = self.gae_advantage.compute_gae_advantages(sa_pairs, config.gamma, lam)
        sa_pairs = sa_pairs.with_columns(advantages=advantages)
        sa_pairs = self.return_calculator.add_reward_to_go(sa_pairs)
        value_lam = lam if config.value_lam is None else config.value_lam
        sa_pairs = self.return_calculator.add_returns(
            sa_pairs, self.gae_advantage.compute_gae_advantages(sa_pairs, config.gamma, value_lam)
        )
        if self.whiten_advantages:
            sa_pairs = sa_pairs.with_columns(advantages=masked_whiten(sa_pairs.advantages, sa_pairs.action_mask))
        check_pairs(sa_pairs)
        clock.lap("scoring")
        trained = self.model_trainer.train_models(sa_pairs, kl_coef if config.kl_in == "loss" else 0.0)
        clock.lap("training")
        rollout = describe_rollout(sa_pairs) | {"kl_coef": kl_coef}
        self.kl_controller.update(rollout["kl"], sa_pairs.sequences if "policy_updates" in trained else 0)
        return {
            "generated_texts": texts,
            "rewards": scores.tolist(),
            **describe_scores(self.reward_computer.plain_scores, self.reward_computer.components),
            **rollout,
            **monitored,
            **trained,
            **describe_cost(clock, sa_pairs, self.floor, trained.get("policy_updates") == self.model_trainer.updates),
        }

    def train(
        self,
        prompts: PromptSet | list[Prompt] | None = None,
        log: RunLog | None = None,
        resume: str | Path | None = None,
    ) -> Evaluations:
        """A whole run of `config.steps` steps over `prompts` (None: `config.prompts`), with evaluations on prompts held
        out of them.

        Writes `config.output_dir` and prints progress through `log`. Returns the evaluations, by name, first to last.
        `resume` is the folder of a run with the same settings that did not end. Raises `RunPaused`, with the run saved,
        when a reward fails, or after the step in which SIGINT or SIGTERM came; `RunStopped` when numbers break (see
        `run_guard`); `StorageError` when a file cannot be written.
        """
        config = self.config
        train_set, held_out, report = self._prompt_sets(prompts)
        resume, data = resume and Path(resume).expanduser(), fingerprint([train_set.prompts, held_out.prompts])
        checkpoint, damage = load_checkpoint(resume) if resume else (None, [])
        step, evaluations = put_state(self, checkpoint, data) if checkpoint else (0, {})
        log = log or RunLog(
            config, monitor_name=self.monitor and self.monitor.name, resume=(resume, step) if resume else None
        )
        guard = RunGuard(
            self,
            log,
            "ppo-lm train --resume {}"
            if prompts is None and not self.has_callables
            else "trainer.train(..., resume={!r})",
        )
        batches = islice(train_set.batches(config.batch_size, config.seed, config.responses_per_prompt), step, None)
        before = random_states(self)
        try:
            log.start(
                f"{config.model_name} ({self.base.description}; {describe_engine(self.roles.policy)})", report, damage
            )
            with Interrupts() as interrupts:
                self._evaluate_if_due(step, held_out, evaluations, log)
                while step < config.steps:
                    interrupts.check()
                    if config.save_every and step % config.save_every == 0:
                        guard.save(take_state(self, step, evaluations, data))
                    batch = next(batches)
                    try:
                        results = self.ppo_step(batch.prompts, batch.columns)
                        log.step(step + 1, batch.prompts, results, self.reward_computer.components)
                        guard.passed(step + 1, results["kl"])
                    except NumericalFault as fault:
                        guard.drop(step + 1, batch.prompts, fault)
                    step += 1
                    before = random_states(self)
                    self._evaluate_if_due(step, held_out, evaluations, log)
            if log.folder:
                log.warn(self.save(log.folder))
                remove_checkpoints(log.folder)
            log.finish(held_out, evaluations)
        except (RewardError, NumericalFault, Interrupted) as error:
            restore_random_states(self, before)
            guard.pause(take_state(self, step, evaluations, data), error)
        except StorageError as error:
            guard.stop(error)
        finally:
            log.close()
        return evaluations

    def save(self, folder: str | Path) -> list[str]:
        """Write `adapter/` (plain PEFT) and `merged/` (plain transformers, if `save_merged`) into `folder`; lora_r 0
        has only the latter. Returns what `save_models` does."""
        return save_models(self.roles.policy, Path(folder), merged=self.config.save_merged)

    def _monitor(
        self, prompts: list[Prompt], texts: list[str], columns: Mapping[str, list] | None, sa_pairs: SAPairs
    ) -> dict[str, float]:
        if self.monitor is None:
            return {}
        seen = [
            score for score in self.monitor(prompts, texts, response_columns(columns, sa_pairs)) if score is not None
        ]
        return {"monitor": sum(seen) / len(seen)} if seen else {}

    def _prompt_sets(self, prompts: PromptSet | list[Prompt] | None) -> tuple[PromptSet, PromptSet, DataReport]:
        """(to train on, held out, report)."""
        config, report = self.config, self.report
        if prompts is None and self.prompts is None:
            raise ConfigError(['prompts is not set; name a file, a data set or "embedded", or pass prompts to train()'])
        if prompts is None:
            prompts = self.prompts
        elif isinstance(prompts, PromptSet):
            report = DataReport("the prompts given", len(prompts), len(prompts), 0)
        else:
            check_prompts(prompts)
            prompts, report = load_prompts(prompts, config)
        prompts, report = fit_prompts(prompts, report, config, self.base)
        train_set, held_out = prompts.split(config.eval_prompts, config.seed)
        report.describe_split([str(p) for p in train_set.prompts], [str(p) for p in held_out.prompts])
        return train_set, held_out, report

    def _evaluate_if_due(self, step: int, held_out: PromptSet, evaluations: Evaluations, log: RunLog) -> None:
        """Evaluate before the first step, after the last, and every `eval_every`; once."""
        config = self.config
        due = step in (0, config.steps) or (config.eval_every and step % config.eval_every == 0)
        if not due or not len(held_out) or any(made[-1].step == step for made in evaluations.values()):
            return
        sampling, found = self.generator.sampling, {}
        kinds = {"sampled": sampling, "near_greedy": SamplingSettings(sampling.max_new_tokens, config.eval_temperature)}
        for name, settings in kinds.items():
            evaluation = evaluate(
                self._make_generator(settings), self.evaluation_rewards, self.monitor, held_out, config.batch_size
            )
            kl = (
                evaluation.kl if settings == sampling else None
            )  # at another temperature it compares two other distributions
            found[name] = replace(evaluation, step=step, kl=kl)
        for name, evaluation in found.items():
            evaluations.setdefault(name, []).append(evaluation)
        log.evaluation(step, held_out, found)
        if config.eval_every and step and log.folder and is_best(evaluations["sampled"]):
            save_best(self.roles.policy, log.folder)

    def _passes(self) -> Passes:
        config, recomputed, critic = (
            self.config,
            self.config.old_logprobs == "recomputed",
            self.config.advantage_estimator == "gae",
        )
        trained = 1 + (critic and config.value_backbone == "separate")
        return Passes(
            scored=1 + critic + recomputed,
            scored_logprobs=1 + recomputed,
            rewards=len(self.roles.rewards),
            trained=trained,
            epochs=config.ppo_epochs,
            all_weights=config.lora_r == 0,
        )

    def _make_generator(self, sampling: SamplingSettings, clock: PhaseClock | None = None) -> SequenceGenerator:
        """A generator with a random stream of its own; one for each evaluation, so that it changes nothing in training
        and all see the same noise."""
        config, policy = self.config, self.roles.policy
        recompute = config.old_logprobs == "recomputed"
        engine = pick_engine(policy, config.rollout_slots, config.micro_batch_tokens)
        return SequenceGenerator(
            policy, self.roles.sft, sampling, config.micro_batch_tokens, config.seed, engine, recompute, clock
        )

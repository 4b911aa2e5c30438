"""The loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ppo_lm.base_setup import LoadedModel, describe_micro_batches, load_base, make_budget, set_up_roles
from ppo_lm.config import PPOConfig
from ppo_lm.data import DataReport, Prompt, PromptSet, load_prompts
from ppo_lm.data.fitting import check_prompts, encode_prompt_set, fit_prompts
from ppo_lm.distributed import join
from ppo_lm.errors import ConfigError, NumericalFault, PartError
from ppo_lm.evaluation import Evaluation, training_sampling
from ppo_lm.health import HealthWatch
from ppo_lm.live import screens
from ppo_lm.ops import masked_whiten
from ppo_lm.ppo_trainer.evaluator import Evaluator
from ppo_lm.ppo_trainer.faults import check_pairs
from ppo_lm.ppo_trainer.generator import SequenceGenerator
from ppo_lm.ppo_trainer.guard import StepGuard
from ppo_lm.ppo_trainer.identity import identify_run
from ppo_lm.ppo_trainer.inputs import check_batch, load_inputs, notes_on_repetition
from ppo_lm.ppo_trainer.metrics import (
    describe_cost,
    describe_importance,
    describe_rollout,
    describe_scores,
    describe_texts,
)
from ppo_lm.ppo_trainer.model_trainer import ModelTrainer
from ppo_lm.ppo_trainer.token_observer import TokenObserver, describe_tokens
from ppo_lm.ppo_trainer.value_adder import ValueAdder
from ppo_lm.reward_kl import KLController, KLDivergence, RewardAdjuster
from ppo_lm.rewards import (
    Responses,
    Reward,
    RewardComputer,
    RewardContext,
    as_list,
    ask,
    make_ready,
)
from ppo_lm.rollout import RolloutEngine, SamplingSettings
from ppo_lm.run import (
    RandomStream,
    Run,
    Stateful,
    TrainingPrompts,
    Weights,
    few_updates,
    gathered_to_save,
    save_adapter,
    save_models,
    save_value,
    save_whole_value,
)
from ppo_lm.terminal.working import working
from ppo_lm.tracking import (
    Column,
    Floor,
    MetricsFile,
    Passes,
    PhaseClock,
    Picture,
    Recorder,
    SamplesDrawn,
    SamplesFile,
    TokensFiles,
    TokensSeen,
    early_stopping,
    measure_machine,
)
from ppo_lm.types import SAPairs
from ppo_lm.user_code import users_parts

OBSERVED = 8  # responses of a step that are kept token by token


class PPOTrainer:
    """PPO on a language model: policy, reference, value and rewards on one shared base.

    `reward` (one or several), `monitor`, `engine`, and `model` with its `tokenizer` override what the configuration
    names. Rewards and the monitor are functions `fn(prompts, completions, **columns)` or `Reward` objects. The model is
    one of transformers that is already loaded; see `LoadedModel`.
    """

    def __init__(
        self,
        config: PPOConfig,
        reward: Reward | Callable | Sequence[Reward | Callable] | None = None,
        monitor: Reward | Callable | None = None,
        engine: RolloutEngine | None = None,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        join()
        loaded = LoadedModel.of(model, tokenizer)
        config = loaded.in_place_of(config) if loaded else config
        with working("reading the inputs"):
            inputs = load_inputs(config, reward, monitor, engine)
        self.is_by_name = all(part is None for part in (reward, monitor, engine, model))
        self.config, self.prompts, self.report = config, inputs.prompts, inputs.report
        self.estimator, self.losses = inputs.estimator, inputs.losses
        self.base = load_base(
            config.model_name,
            config.dtype,
            config.device,
            seed=config.seed,
            fast=config.fast,
            allow_special_tokens=config.allow_special_tokens,
            loaded=loaded,
            shard=config.shard_base,
            quantisation=config.quantise_base,
        )
        self.budget = make_budget(self.base, config.micro_batch_tokens, config.rollout_slots)
        self.monitor = inputs.monitor
        self.reward_computer = RewardComputer(
            inputs.rewards,
            self.budget,
            config.reward_weights,
            config.reward_clip,
            config.reward_normalise,
            config.reward_timeout,
        )
        with working("setting up the policy, the value model and the rewards"):
            self.roles = set_up_roles(
                self.base,
                lora_r=config.lora_r,
                lora_alpha=config.lora_alpha,
                lora_dropout=config.lora_dropout,
                lora_targets=config.lora_targets,
                load_rewards=self.reward_computer.make_ready,
                seed=config.seed,
                shared_trunk=config.value_backbone == "shared",
                value_folder=inputs.value,
                with_value=self.estimator.needs_values,
            )
        for trained in self.roles.trained().values() if config.gradient_checkpointing else ():
            trained.base.checkpoint_activations()
        self.clock = PhaseClock(self.base.device)
        self.engine = inputs.make_engine(self.roles.policy, self.budget)
        self.generator = self._make_generator(training_sampling(config), self.clock)
        if self.monitor is not None:
            make_ready(self.monitor, RewardContext.on(self.base, self.budget))
        self.kl_controller = KLController(config.kl_coef, config.adaptive_kl_target, config.adaptive_kl_horizon)
        self.kl_divergence = KLDivergence(config.kl_estimator)
        self.reward_adjuster = RewardAdjuster(config.missing_eos_score, config.whiten_rewards)
        begin = self._begin_value_update if self.estimator.scores_in_first_update(config) else None
        self.value_adder = None if self.roles.value is None else ValueAdder(self.roles.value, self.budget, begin)
        self.whiten_advantages = (
            self.estimator.whitens if config.whiten_advantages is None else config.whiten_advantages
        )
        self.model_trainer = ModelTrainer(
            self.roles.policy, self.roles.value, config, self.budget, inputs.losses, inputs.optimiser_parts
        )
        self.observer = TokenObserver(self.roles.policy, self.roles.sft, self.budget, config.temperature)
        with working("measuring the machine"):
            machine = measure_machine(self.base.device, self.base.dtype)
        self.floor = Floor(self.base.network, machine, self._passes(), self.budget.slots)

    def ppo_step(self, prompts: PromptSet | Sequence[Prompt], columns: Mapping[str, list] | None = None) -> dict:
        """Sample, score and train on one batch of prompts, each `responses_per_prompt` times in a row: texts,
        conversations, or lists of token ids. `columns`: lists of the same length, passed on to rewards.

        Returns `generated_texts` (B texts), `rewards` (their B scores), `reward_parts` (B numbers by each reward's
        name, None for no opinion), `value_loss`, `policy_loss` (of what was trained), and the step's other metrics;
        within `observer.looking_at(n)` also `observed`, n responses token by token (`ObservedTokens`).
        """
        config, clock, kl_coef = self.config, self.clock, self.kl_controller.coef
        batch = self._encode(prompts, columns)
        clock.start()
        sa_pairs, texts = self.generator.generate_sequences(batch.require_ids())
        clock.lap("scoring")
        responses = Responses.sampled(batch.prompts, texts, batch.columns, sa_pairs, self.base.tokenizer)
        scores = self.reward_computer.compute_rewards(responses)
        monitored = self._monitor(responses)
        clock.lap("reward")
        sa_pairs = sa_pairs.with_columns(scores=scores.total)
        sa_pairs = self.kl_divergence.add_kl_to_sa_pairs(sa_pairs)
        sa_pairs = self.reward_adjuster.adjust_rewards_with_kl(sa_pairs, kl_coef if config.kl_in == "reward" else 0.0)
        if self.value_adder:
            sa_pairs = self.value_adder.add_values_to_sa_pairs(sa_pairs)
        # with gae: TDError.compute_td_errors → GAEAdvantage.compute_gae_advantages → ReturnCalculator.add_reward_to_go
        sa_pairs = self.estimator.add_advantages(sa_pairs, config)
        if self.whiten_advantages:
            advantages = masked_whiten(sa_pairs.require("advantages"), sa_pairs.action_mask)
            sa_pairs = sa_pairs.with_columns(advantages=advantages)
        check_pairs(sa_pairs)
        seen = self.observer.before_training(sa_pairs)
        clock.lap("scoring")
        trained = self.model_trainer.train_models(sa_pairs, kl_coef if config.kl_in == "loss" else 0.0)
        observed = self.observer.after_training(seen)
        clock.lap("training")
        rollout = describe_rollout(sa_pairs) | {"kl_coef": kl_coef}
        if config.old_logprobs == "recomputed":
            rollout |= describe_importance(sa_pairs, config.importance_floor, config.importance_cap)
        self.kl_controller.update(rollout["kl"], sa_pairs.sequences if "policy_updates" in trained else 0)
        return {
            "generated_texts": texts,
            "rewards": scores.total.tolist(),
            "reward_parts": {name: as_list(values) for name, values in scores.parts.items()},
            **observed,
            **describe_scores(scores),
            **rollout,
            **describe_texts(texts),
            **monitored,
            **trained,
            **describe_cost(clock, sa_pairs, self.floor, trained.get("policy_updates") == self.model_trainer.updates),
        }

    def train(
        self,
        prompts: PromptSet | list[Prompt] | None = None,
        resume: str | Path | None = None,
        *,
        recorders: Sequence[Recorder] = (),
        quiet: bool = False,
        overwrite: bool = False,
        allow_changes: bool = False,
    ) -> dict[str, list[Evaluation]]:
        """A whole run of `config.steps` steps over `prompts` (None: `config.prompts`), with evaluations on prompts held
        out of them. It continues from what `ppo_step` or `train` trained before, with a schedule of its own.

        Returns all evaluations, first to last, as `{"sampled": [...], "near_greedy": [...]}`; empty if no prompt is
        held out.

        Writes `config.output_dir` and, unless `quiet`, prints progress; `recorders` get every event too. A run that is
        already there is refused, or replaced with `overwrite`. `resume` is the folder of an interrupted run; if it has
        changed, it is refused, or continued with `allow_changes`. Raises `RunPaused`, with the run saved, if a reward
        fails, or after the current step on SIGINT or SIGTERM; `RunStopped` if training breaks down (see `guard`);
        `StorageError` if a file cannot be written.
        """
        config = self.config
        train_set, held_out, report = self._prompt_sets(prompts)
        evaluator = Evaluator(
            config, held_out, self.roles.policy, self.reward_computer, self.monitor, self._make_generator
        )
        guard, health = StepGuard(config), HealthWatch(config)
        monitor = self.monitor.name if self.monitor else "monitor"
        by_name = prompts is None and self.is_by_name and not recorders
        own = [MetricsFile(), SamplesFile(), TokensFiles(), Picture(), *screens(quiet)]
        own += early_stopping(config, partial_steps=config.value_warmup_steps)
        run = Run(
            config,
            steps=config.steps,
            command="{} train --resume {}" if by_name else "trainer.train(..., resume={folder!r})",
            identity=lambda: identify_run(self, train_set, held_out),
            resume=None if resume is None else Path(resume),
            overwrite=overwrite,
            allow_changes=allow_changes,
            save_every=config.save_every,
            keep_checkpoints=config.keep_checkpoints,
            recorders=[*own, *recorders],
        )

        def batches(start: int) -> Iterator[PromptSet]:
            drawn = train_set.batches(config.batch_size, config.seed, config.responses_per_prompt)
            return islice(drawn, start, config.steps)

        def later() -> Iterator[list[list[int]]]:  # asked for in the first step
            for batch in batches(run.step + len(self.generator.ahead)):
                yield batch.require_ids()

        with self.generator.looking_ahead(later(), config.max_staleness), run, self.budget.telling(run.say):
            parts = {**self.stateful_parts(), "evaluations": evaluator.history, "guard": guard, "health": health}
            for name, part in parts.items():
                run.register(name, part, undo=name in self.random_streams())
            run.save_in_checkpoints(self._save_adapters)
            notices = few_updates(self.model_trainer.total_updates, "raise steps")
            notices += notes_on_repetition(len(train_set), config)
            if resume is None:
                notices += self._start_schedules()
            run.start(
                self._headline(),
                reports=[report],
                notices=notices,
                trained_on=TrainingPrompts(self.base.name, train_set.given),
                columns=columns(monitor),
            )
            health.start(run.history)
            upcoming = batches(run.step)
            evaluator.evaluate_if_due(run)
            for step in run.steps():
                batch = next(upcoming)
                try:
                    with users_parts(f"in step {step}", PartError), self.observer.looking_at(self._observed_at(step)):
                        results = self.ppo_step(batch)
                except NumericalFault as fault:
                    run.record_skipped(step, batch.prompts, fault)
                    guard.skipped(step, fault, self.models())
                else:
                    self._record(run, step, batch, results, health)
                    guard.passed(step, results["kl"])
                evaluator.evaluate_if_due(run)
            evaluator.evaluate_if_due(run)  # in case a recorder stopped the run between two steps
            with gathered_to_save(self.roles.policy, merged=config.save_merged):
                run.finish(self.save, evaluator.examples(monitor))
        return evaluator.history.made

    def _start_schedules(self) -> list[str]:
        """Give a new run its whole schedule. Returns a sentence if the models were trained before."""
        earlier = self.model_trainer.restart_schedules()
        if not earlier:
            return []
        return [
            f"steps made before this run: {earlier}; the models continue from there, and the learning rate schedule "
            "starts again"
        ]

    def _record(self, run: Run, step: int, batch: PromptSet, results: dict, health: HealthWatch) -> None:
        own = {name: value for name, value in results.items() if isinstance(value, (int, float))}
        metrics = run.once(lambda: own)  # other processes took other times
        run.record_step(step, metrics)
        if step % self.config.samples_every == 0 or run.is_over:
            texts, scores, parts = results["generated_texts"], results["rewards"], results["reward_parts"]
            run.record_samples(SamplesDrawn(step, batch.prompts, texts, scores, parts))
        if "observed" in results:
            run.record_tokens(self._describe(step, batch, results))
        for finding in health.step({"step": step, **metrics}):
            run.record_finding(finding)

    def _observed_at(self, step: int) -> int:
        """How many of a step's responses are kept token by token."""
        every = self.config.token_samples_every
        return OBSERVED if every and (step % every == 0 or step == self.config.steps) else 0

    def _describe(self, step: int, batch: PromptSet, results: dict) -> TokensSeen:
        kl_coef = results["kl_coef"] if self.config.kl_in == "reward" else 0.0
        return describe_tokens(
            step,
            results["observed"],
            batch,
            results["generated_texts"],
            results["reward_parts"],
            self.base.tokenizer,
            kl_coef,
        )

    def stateful_parts(self) -> dict[str, Stateful]:
        """What determines the next step, by name; saved in every checkpoint. tests/ppo_trainer/test_stateful.py checks
        that nothing is missing here."""
        engine = {"engine": self.engine} if isinstance(self.engine, Stateful) else {}
        return {
            **{name: Weights(model.parameters()) for name, model in self.roles.trained().items()},
            **{f"{name}_optimiser": optimiser for name, optimiser in self.model_trainer.optimisers.items()},
            "kl_controller": self.kl_controller,
            "budget": self.budget,
            **engine,
            **self.random_streams(),
        }

    def random_streams(self) -> dict[str, Stateful]:
        """What a step draws from, and has sampled ahead: the parts that a failed step leaves changed."""
        trainer = self.model_trainer
        streams = {
            "sampling": self.generator.random,
            "policy_batches": trainer.policy_buffer.random,
            "value_batches": trainer.value_buffer.random,
        }
        ahead = {"sampled ahead": self.generator.ahead} if self.config.max_staleness else {}
        return {**ahead, **{name: RandomStream(stream) for name, stream in streams.items()}}

    def models(self) -> dict[str, list[torch.nn.Parameter]]:
        """The weights that a step computes with, by their name in messages."""
        trained = {f"the {role} model": model.parameters() for role, model in self.roles.trained().items()}
        return {**trained, "the frozen base": list(self.base.network.parameters())}

    def _headline(self) -> str:
        config = self.config
        copies = f" with {config.responses_per_prompt} responses each" if config.responses_per_prompt > 1 else ""
        chosen = describe_micro_batches(self.base, config.micro_batch_tokens, self.budget)
        return (
            f"PPO on {config.model_name} ({self.base.description}; {self.engine.description}{chosen}): {config.steps} "
            f"steps of {config.batch_size // config.responses_per_prompt} prompts{copies}"
        )

    def save(self, folder: str | Path) -> list[str]:
        """Write `adapter/` (plain PEFT), `merged/` (plain transformers, if `save_merged`) and `value/` (for
        `value_model`, unless it has no adapter of its own) into `folder`; with lora_r 0 only `merged/`. Returns what
        `save_models` does. `merged/` of sharded weights needs `BaseModel.gathered`."""
        save_whole_value(self.roles.value, Path(folder))
        return save_models(self.roles.policy, Path(folder), merged=self.config.save_merged)

    def _save_adapters(self, folder: Path) -> None:
        """Write `adapter/` and `value/` into the folder of a checkpoint."""
        save_adapter(self.roles.policy, folder / "adapter")
        save_value(self.roles.value, folder / "value")

    def _encode(self, prompts: PromptSet | Sequence[Prompt], columns: Mapping[str, list] | None) -> PromptSet:
        """A batch with its token ids; a run's prompts already have theirs."""
        config, batch = self.config, prompts
        if not isinstance(batch, PromptSet):
            batch = PromptSet(batch, columns or {})
        if batch.ids is None:
            batch = encode_prompt_set(batch, self.base, config.max_new_tokens)
        check_batch(batch, config.mini_batches, config.responses_per_prompt)
        return batch

    def _monitor(self, responses: Responses) -> dict[str, float]:
        if self.monitor is None:
            return {}
        seen = [
            score for score in ask(self.monitor, responses, self.config.reward_timeout).opinions if score is not None
        ]
        return {"monitor": sum(seen) / len(seen)} if seen else {}

    def _prompt_sets(self, prompts: PromptSet | list[Prompt] | None) -> tuple[PromptSet, PromptSet, DataReport]:
        """(to train on, held out, report)."""
        config = self.config
        if isinstance(prompts, PromptSet):
            loaded, report = prompts, DataReport("the given prompts", len(prompts), len(prompts), 0)
        elif prompts is not None:
            check_prompts(prompts)
            loaded, report = load_prompts(prompts, config)
        elif self.prompts is not None and self.report is not None:
            loaded, report = self.prompts, self.report
        else:
            raise ConfigError.no_data("prompts", ", or pass prompts to train()")
        with working("tokenising the prompts"):
            fitted, report = fit_prompts(
                loaded,
                report,
                self.base,
                max_prompt_tokens=config.max_prompt_tokens,
                max_new_tokens=config.max_new_tokens,
            )
        train_set, held_out = fitted.split(config.eval_prompts, config.seed)
        parts = ([str(prompt) for prompt in part.prompts] for part in (train_set, held_out))
        report.describe_split(*parts, asked=config.eval_prompts)
        return train_set, held_out, report

    def _begin_value_update(self, sa_pairs: SAPairs) -> torch.Tensor:
        self.clock.lap("scoring")
        values = self.model_trainer.begin_value_update(sa_pairs, self.estimator.add_advantages)
        self.clock.lap("training")
        return values

    def _passes(self) -> Passes:
        rewards = len(self.roles.rewards) + len(self.monitor.models if self.monitor else ())
        return Passes.of(self.config, self.estimator, rewards)

    def _make_generator(self, sampling: SamplingSettings, clock: PhaseClock | None = None) -> SequenceGenerator:
        """A generator with its own random stream. Every evaluation gets a new one, so that it does not affect training
        and all draw the same random numbers."""
        config, policy = self.config, self.roles.policy
        recompute = config.old_logprobs == "recomputed"
        return SequenceGenerator(
            policy, self.roles.sft, sampling, self.budget, config.seed, self.engine, recompute, clock
        )


def columns(monitor_name: str) -> list[Column]:
    """The metrics of a step that the screen shows."""
    return [
        Column("score", "reward"),
        Column("kl", "KL", "5.2f"),
        Column("monitor", monitor_name),
        Column("length", "length", "5.1f"),
        Column("ended", "ended", "4.0%"),
    ]

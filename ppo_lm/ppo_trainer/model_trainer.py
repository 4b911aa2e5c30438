"""Step 7: train the value model and the policy on one step's pairs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch

from ppo_lm.base_setup import make_budget
from ppo_lm.config import PPOConfig
from ppo_lm.distributed import processes
from ppo_lm.errors import ConfigError, NumericalFault
from ppo_lm.experience_buffer import ExperienceBuffer, MemoryBudget
from ppo_lm.models import PolicyModel, ValueModel
from ppo_lm.models.policy_model import states_before_actions
from ppo_lm.ops import masked_sum
from ppo_lm.optimisation import Optimiser, OptimiserParts, all_or_nothing, find_optimiser_parts
from ppo_lm.ppo_trainer.updates import Begun, Part, PartLoss, Size, Training, begin_update, train_side_by_side
from ppo_lm.training import (
    Losses,
    NewNumbers,
    TokenLoss,
    approximate_kl,
    double_sided_importance,
    find_losses,
    kl_loss,
    policy_ratio,
    token_weights,
    truncated_importance,
)
from ppo_lm.types import SAPairs

AddTargets = Callable[[SAPairs, PPOConfig], SAPairs]
LEARNING_RATES = {"policy": "learning_rate", "value": "value_learning_rate"}  # names of their metrics


class ModelTrainer:
    """One optimiser for each model: `ppo_epochs` passes over the pairs, `mini_batches` optimiser steps per pass.

    A mini-batch's loss is the mean over its tokens (or sequences), however it is split into micro-batches.
    """

    def __init__(
        self,
        policy: PolicyModel,
        value_model: ValueModel | None,
        config: PPOConfig,
        budget: MemoryBudget | None = None,
        losses: Losses | None = None,
        optimiser_parts: OptimiserParts | None = None,
    ):
        """`value_model`: None if the advantage estimator needs none. `losses` and `optimiser_parts`: None uses those
        that the configuration names."""
        self.policy, self.value_model, self.config = policy, value_model, config
        self.losses = losses or find_losses(config)
        self.optimiser_parts = optimiser_parts or find_optimiser_parts(config)
        self.updates = config.ppo_epochs * config.mini_batches  # per step
        self.warmup_updates = config.value_warmup_steps * self.updates
        self.total_updates = config.steps * self.updates - self.warmup_updates
        self.policy_optimiser = self._make_optimiser(policy, config.learning_rate, self.total_updates)
        self.value_optimiser = (
            None
            if value_model is None
            else self._make_optimiser(value_model, config.value_learning_rate, config.steps * self.updates)
        )
        self.policy_buffer, self.value_buffer = ExperienceBuffer(config.seed), ExperienceBuffer(config.seed)
        self.budget = budget or make_budget(policy.base, config.micro_batch_tokens)
        self._begun: Begun | None = None

    def _make_optimiser(self, model: PolicyModel | ValueModel, learning_rate: float, total_steps: int) -> Optimiser:
        return Optimiser(
            model.parameters(),
            learning_rate,
            schedule=self.optimiser_parts.schedule,
            total_steps=total_steps,
            max_grad_norm=self.config.max_grad_norm,
            epsilon=self.config.adam_epsilon,
            make=self.optimiser_parts.make,
        )

    @property
    def optimisers(self) -> dict[str, Optimiser]:
        """By the name of the model: "policy", and "value" if there is a value model."""
        value = {} if self.value_optimiser is None else {"value": self.value_optimiser}
        return {"policy": self.policy_optimiser, **value}

    def restart_schedules(self) -> int:
        """Return to the first update of both schedules. Returns the number of steps that were made since."""
        updates = max(optimiser.steps_done for optimiser in self.optimisers.values())  # the policy's lack the warm-up
        for optimiser in self.optimisers.values():
            optimiser.restart_schedule()
        return updates // self.updates

    def begin_value_update(self, sa_pairs: SAPairs, add_targets: AddTargets) -> torch.Tensor:
        """Predict the values of pairs that are one mini-batch, (B, A) fp32 and 0 where masked, and accumulate the
        gradients of their first update in the same pass; training on pairs with these values continues from there.
        `add_targets`: adds what the value model learns to some of the pairs, which have their `values`."""
        model = self._require_value_model()

        def part_loss(part: SAPairs, size: Size) -> tuple[torch.Tensor, Part]:
            values = model.values(part)
            part = add_targets(part.with_columns(values=values.detach()), self.config)
            part = part.with_columns(advantages=None)  # a value loss would find them whitened in later updates
            return values, self._value_part(part, values, size)

        self._begun = None
        self._begun = begin_update(model, self.optimisers["value"], sa_pairs, part_loss, self.budget)
        return self._begun.values

    def train_models(self, sa_pairs: SAPairs, kl_coef: float = 0.0) -> dict[str, float]:
        """Train the value model, if there is one, then the policy; both in one pass if they share a trunk; the value
        model alone in the first `value_warmup_steps`. `kl_coef`: weight of the KL to the reference in the policy's
        loss.

        All or nothing: raises `NumericalFault`, with weights and optimisers as they were, if a gradient is NaN or
        infinite.
        """
        try:
            with all_or_nothing(list(self.optimisers.values()), self.updates):
                metrics = self._train_models(sa_pairs, kl_coef)
        except NumericalFault as fault:
            fault.batch = sa_pairs
            raise
        return metrics | {name: rate for name, rate in self.learning_rates().items() if name in metrics}

    def _train_models(self, sa_pairs: SAPairs, kl_coef: float) -> dict[str, float]:
        if self.value_model is None:
            return self.train_policy_model(sa_pairs, kl_coef)
        if self.value_model.trunk_of:
            return self.train_shared_model(sa_pairs, kl_coef)
        if self.optimisers["value"].steps_done < self.warmup_updates:
            return self.train_value_model(sa_pairs)
        if processes().size == 1:  # which holds the gradients of one model at a time
            return self.train_value_model(sa_pairs) | self.train_policy_model(sa_pairs, kl_coef)
        return self._train(self._value_training(sa_pairs), self._policy_training(sa_pairs, kl_coef))

    def learning_rates(self) -> dict[str, float]:
        """The learning rates of the next updates, by metric name."""
        return {LEARNING_RATES[name]: optimiser.learning_rate for name, optimiser in self.optimisers.items()}

    def train_value_model(self, sa_pairs: SAPairs) -> dict[str, float]:
        """Move V towards the column `config.value_target`; needs `values`. Returns means over tokens and optimiser
        steps."""
        return self._train(self._value_training(sa_pairs))

    def train_policy_model(self, sa_pairs: SAPairs, kl_coef: float = 0.0) -> dict[str, float]:
        """Minimise the policy's loss; needs `advantages`. Returns means over tokens and optimiser steps, and
        `sampler_gap`: the mean absolute difference, in nats per token, between the sampler's log-probabilities and
        those of the first mini-batch, before any update."""
        return self._train(self._policy_training(sa_pairs, kl_coef))

    def train_shared_model(self, sa_pairs: SAPairs, kl_coef: float = 0.0) -> dict[str, float]:
        """Both of the above in one pass, for a value head on the policy's hidden states: the loss is the sum of the
        two."""
        head = self._require_value_model()

        def part_loss(part: SAPairs, size: Size) -> Part:
            states = states_before_actions(self.policy.base, self.policy.role, part)
            policy = self._policy_part(part, states, size, kl_coef)
            value = self._value_part(part, head.values_at(states, part), size)
            return Part(policy.loss + value.loss, policy.sums | value.sums)

        return self._train(self._training(sa_pairs, self.policy, ("policy", "value"), part_loss))

    def _value_training(self, sa_pairs: SAPairs) -> Training:
        model, begun, self._begun = self._require_value_model(), self._begun, None

        def part_loss(part: SAPairs, size: Size) -> Part:
            return self._value_part(part, model.values(part), size)

        training = self._training(sa_pairs, model, ("value",), part_loss)
        if begun is not None and begun.values is sa_pairs.values:
            training.begin(begun.sums)
        return training

    def _policy_training(self, sa_pairs: SAPairs, kl_coef: float) -> Training:
        def part_loss(part: SAPairs, size: Size) -> Part:
            states = states_before_actions(self.policy.base, self.policy.role, part)
            return self._policy_part(part, states, size, kl_coef)

        return self._training(sa_pairs, self.policy, ("policy",), part_loss)

    def _training(
        self, sa_pairs: SAPairs, model: PolicyModel | ValueModel, trained: tuple[str, ...], part_loss: PartLoss
    ) -> Training:
        """The updates of the models named in `trained`, in passes of `model`."""
        buffer = self.policy_buffer if "policy" in trained else self.value_buffer
        epochs = (buffer.mini_batches(sa_pairs, self.config.mini_batches) for _ in range(self.config.ppo_epochs))
        optimisers = {name: self.optimisers[name] for name in trained}
        return Training(optimisers, model, chain.from_iterable(epochs), part_loss, self.config.target_kl)

    def _require_value_model(self) -> ValueModel:
        if self.value_model is None:
            raise ValueError("there is no value model to train: the advantage estimator needs none")
        return self.value_model

    def _policy_part(self, part: SAPairs, states: torch.Tensor, size: Size, kl_coef: float) -> Part:
        """The loss that `policy_loss` names, plus the KL to the reference, minus the entropy bonus."""
        config, mask = self.config, part.action_mask
        new = self._new_numbers(part, states)
        weights = token_weights(mask, config.loss_aggregation, new.logprobs.dtype)
        count = size.tokens if config.loss_aggregation == "token_mean" else size.sequences
        trusted = weights * self._trust(part)
        found = self.losses.policy.compute(part, new, config)
        loss = masked_sum(found.loss * trusted, mask) / count
        sums = {"policy_loss": loss * size.tokens, **_sums(found, mask), **_drift(part, new.logprobs)}
        if kl_coef:
            kl = kl_loss(new.logprobs, part.old_logprobs, part.require("ref_logprobs"), mask, config.kl_estimator)
            mean_kl = masked_sum(kl * trusted, mask) / count
            loss, sums["kl_loss"] = loss + kl_coef * mean_kl, mean_kl * size.tokens
        if config.entropy_coef and new.entropies is not None:
            loss = loss - config.entropy_coef * masked_sum(new.entropies * weights, mask) / count
        return Part(loss, sums)

    def _new_numbers(self, part: SAPairs, states: torch.Tensor) -> NewNumbers:
        entropy = self.config.entropy_coef > 0 or self.losses.policy.needs_entropies
        found = self.policy.logprobs_at(states, part, self.config.temperature, entropy=entropy)
        return NewNumbers(*found) if entropy else NewNumbers(found, None)

    def _trust(self, part: SAPairs) -> torch.Tensor | float:
        """Per-token weights that correct for the difference between sampler and training pass."""
        config, mask = self.config, part.action_mask
        if not config.importance_cap:
            return 1.0
        old, sampler = part.old_logprobs, part.require("sampler_logprobs")
        if config.importance_mode == "truncate":
            return truncated_importance(old, sampler, mask, config.importance_cap)
        return double_sided_importance(old, sampler, mask, config.importance_floor, config.importance_cap)

    def _value_part(self, part: SAPairs, new_values: torch.Tensor, size: Size) -> Part:
        found = self.losses.value.compute(part, new_values, self.config)
        loss = masked_sum(found.loss, part.action_mask) / size.tokens
        sums = {"value_loss": loss * size.tokens, **_sums(found, part.action_mask)}
        return Part(self.config.value_coef * loss, sums)

    def _train(self, *trainings: Training) -> dict[str, float]:
        self._check_schedule()
        metrics = train_side_by_side(trainings, self.updates, self.budget)
        trained = [name for training in trainings for name in training.optimisers]
        return metrics | {LEARNING_RATES[name]: self.optimisers[name].learning_rate for name in trained}

    def _check_schedule(self) -> None:
        """Raise once the learning rate has reached 0: nothing more would be learnt."""
        config, optimiser = self.config, self.policy_optimiser
        if optimiser.steps_done >= self.total_updates and optimiser.learning_rate == 0:
            raise ConfigError.of(
                f"all {config.steps} steps are done, so the {config.lr_schedule} schedule has ended; raise steps, or "
                "set lr_schedule to constant"
            )


def _sums(found: TokenLoss, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sums over tokens of what a loss logs."""
    return {name: masked_sum(numbers.detach(), mask) for name, numbers in found.metrics.items()}


@torch.no_grad()
def _drift(part: SAPairs, new_logprobs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sums over tokens that measure how far the policy is from the one that sampled, and from the sampler's
    numerics."""
    mask = part.action_mask
    ratio = policy_ratio(new_logprobs, part.old_logprobs, mask)
    sums = {"ratio": masked_sum(ratio, mask), "approx_kl": masked_sum(approximate_kl(ratio), mask)}
    if part.sampler_logprobs is not None:
        sums["sampler_gap"] = (new_logprobs - part.sampler_logprobs).abs()[mask].sum()
    return sums

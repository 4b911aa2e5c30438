"""Step 7: train the value model and the policy on one step's pairs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from ppo_lm.config import PPOConfig
from ppo_lm.errors import ConfigError, NumericalFault
from ppo_lm.experience_buffer import ExperienceBuffer, MemoryBudget, try_micro_batches
from ppo_lm.models import PolicyModel, ValueModel
from ppo_lm.models.policy_model import states_before_actions
from ppo_lm.ops import masked_sum
from ppo_lm.optimisation import Optimiser
from ppo_lm.training import kl_loss, policy_loss, token_weights, truncated_importance, value_loss
from ppo_lm.types import SAPairs


class Size(NamedTuple):
    """Of a mini-batch."""

    tokens: int
    sequences: int


class Part(NamedTuple):
    """What one micro-batch adds to its mini-batch: its share of the loss, and sums over its tokens for metrics."""

    loss: torch.Tensor
    sums: dict[str, torch.Tensor]


PartLoss = Callable[[SAPairs, Size], Part]  # of a micro-batch, and its mini-batch's size
BEFORE_UPDATES = ("sampler_gap",)  # sums that mean something in the first mini-batch only
LEARNING_RATES = {"policy": "learning_rate", "value": "value_learning_rate"}  # names of their metrics


class ModelTrainer:
    """Two optimisers, one a model: `ppo_epochs` passes over the pairs, `mini_batches` optimiser steps a pass.

    A mini-batch's loss is a mean over its tokens (or sequences), whatever the micro-batches it is computed in.
    """

    def __init__(
        self, policy: PolicyModel, value_model: ValueModel, config: PPOConfig, budget: MemoryBudget | None = None
    ):
        self.policy, self.value_model, self.config = policy, value_model, config
        self.updates = config.ppo_epochs * config.mini_batches  # a step
        self.warmup_updates = config.value_warmup_steps * self.updates
        self.total_updates = config.steps * self.updates - self.warmup_updates
        settings = dict(schedule=config.lr_schedule, max_grad_norm=config.max_grad_norm, epsilon=config.adam_epsilon)
        self.policy_optimiser = Optimiser(
            policy.parameters(), config.learning_rate, total_steps=self.total_updates, **settings
        )
        self.value_optimiser = Optimiser(
            value_model.parameters(), config.value_learning_rate, total_steps=config.steps * self.updates, **settings
        )
        self.policy_buffer, self.value_buffer = ExperienceBuffer(config.seed), ExperienceBuffer(config.seed)
        self.budget = budget or MemoryBudget(config.micro_batch_tokens)

    def train_models(self, sa_pairs: SAPairs, kl_coef: float = 0.0) -> dict[str, float]:
        """Both models, one after the other, or in one pass if they share a trunk; the value model alone in its first
        `value_warmup_steps`, and the policy alone where no value model is needed. `kl_coef`: weight of the KL to the
        reference in the policy's loss. All of it or nothing: raises `NumericalFault`, with weights and optimisers as
        they were, if a gradient is NaN or infinite."""
        optimisers = (self.value_optimiser, self.policy_optimiser)
        before = [optimiser.snapshot() for optimiser in optimisers]
        warming_up = self.value_optimiser.steps_done < self.warmup_updates
        try:
            if self.value_model.trunk_of:
                return self.train_shared_model(sa_pairs, kl_coef)
            value = self.train_value_model(sa_pairs) if self.config.advantage_estimator == "gae" else {}
            return value if warming_up else value | self.train_policy_model(sa_pairs, kl_coef)
        except NumericalFault as fault:
            for optimiser, snapshot in zip(optimisers, before):
                optimiser.go_back_to(snapshot)
            fault.batch = sa_pairs
            raise

    def train_value_model(self, sa_pairs: SAPairs) -> dict[str, float]:
        """Move V towards the column `config.value_target`; needs `values`. Returns means over tokens and optimiser
        steps."""

        def part_loss(part: SAPairs, size: Size) -> Part:
            return self._value_part(part, self.value_model.values(part), size)

        return self._train(sa_pairs, self.value_model, self.value_buffer, {"value": self.value_optimiser}, part_loss)

    def train_policy_model(self, sa_pairs: SAPairs, kl_coef: float = 0.0) -> dict[str, float]:
        """Climb PPO's clipped objective; needs `advantages`. Returns means over tokens and optimiser steps, and
        `sampler_gap`: the mean absolute difference, in nats a token, between the log-probabilities of the first
        mini-batch in training, before any update, and while sampling."""

        def part_loss(part: SAPairs, size: Size) -> Part:
            return self._policy_part(
                part, states_before_actions(self.policy.base, self.policy.role, part), size, kl_coef
            )

        return self._train(sa_pairs, self.policy, self.policy_buffer, {"policy": self.policy_optimiser}, part_loss)

    def train_shared_model(self, sa_pairs: SAPairs, kl_coef: float = 0.0) -> dict[str, float]:
        """Both of the above in one pass, for a value head on the policy's hidden states: the loss is the sum of the
        two."""

        def part_loss(part: SAPairs, size: Size) -> Part:
            states = states_before_actions(self.policy.base, self.policy.role, part)
            policy = self._policy_part(part, states, size, kl_coef)
            value = self._value_part(part, self.value_model.values_at(states, part), size)
            return Part(policy.loss + value.loss, policy.sums | value.sums)

        return self._train(
            sa_pairs,
            self.policy,
            self.policy_buffer,
            {"policy": self.policy_optimiser, "value": self.value_optimiser},
            part_loss,
        )

    def _policy_part(self, part: SAPairs, states: torch.Tensor, size: Size, kl_coef: float) -> Part:
        config, mask, old_logprobs = self.config, part.action_mask, part.old_logprobs
        found = self.policy.logprobs_at(states, part, config.temperature, entropy=config.entropy_coef > 0)
        new_logprobs, entropies = found if config.entropy_coef else (found, None)
        weights, count = (
            token_weights(mask, config.loss_aggregation),
            size.tokens if config.loss_aggregation == "token_mean" else size.sequences,
        )
        trust = (
            truncated_importance(old_logprobs, part.require("sampler_logprobs"), mask, config.importance_cap)
            if config.importance_cap
            else 1.0
        )
        result = policy_loss(
            new_logprobs,
            old_logprobs,
            part.require("advantages"),
            mask,
            config.clip_epsilon,
            count,
            clip_epsilon_high=config.clip_epsilon_high,
            dual_clip=config.dual_clip,
            weights=weights * trust,
        )
        sums = {
            "policy_loss": result.loss * size.tokens,
            "ratio": result.ratio_sum,
            "clip_fraction": result.clipped_sum,
            "approx_kl": result.approx_kl_sum,
        }
        loss = result.loss
        if kl_coef:
            kl = kl_loss(
                new_logprobs,
                old_logprobs,
                part.require("ref_logprobs"),
                mask,
                config.kl_estimator,
                count,
                weights * trust,
            )
            loss, sums["kl_loss"] = loss + kl_coef * kl, kl * size.tokens
        if config.entropy_coef:
            loss = loss - config.entropy_coef * masked_sum(entropies * weights, mask) / count
        if part.sampler_logprobs is not None:
            sums["sampler_gap"] = (new_logprobs - part.sampler_logprobs).abs()[mask].sum()
        return Part(loss, sums)

    def _value_part(self, part: SAPairs, new_values: torch.Tensor, size: Size) -> Part:
        config = self.config
        result = value_loss(
            new_values,
            part.require("values"),
            part.require(config.value_target),
            part.action_mask,
            config.value_clip,
            size.tokens,
        )
        return Part(
            config.value_coef * result.loss,
            {"value_loss": result.loss * size.tokens, "value_clip_fraction": result.clipped_sum},
        )

    def _train(
        self,
        sa_pairs: SAPairs,
        model: PolicyModel | ValueModel,
        buffer: ExperienceBuffer,
        optimisers: dict[str, Optimiser],
        part_loss: PartLoss,
    ) -> dict[str, float]:
        self._check_schedule()
        config, sums, norms, first, seen, updates = self.config, Counter(), Counter(), {}, 0, 0
        for batch in (
            batch for _ in range(config.ppo_epochs) for batch in buffer.mini_batches(sa_pairs, config.mini_batches)
        ):
            found = self._accumulate(batch, model, optimisers.values(), part_loss)
            first = first or {name: float(found[name]) / len(batch) for name in BEFORE_UPDATES if name in found}
            sums.update(found)
            seen += len(batch)
            if config.target_kl and updates and self._mean_kl(found, batch) > config.target_kl:
                break
            norms.update({f"{name}_grad_norm": optimiser.step() for name, optimiser in optimisers.items()})
            updates += 1
        for optimiser in optimisers.values():
            optimiser.skip(self.updates - updates)
        if "policy" in optimisers:
            first["policy_updates"] = float(updates)
        rates = {LEARNING_RATES[name]: optimiser.learning_rate for name, optimiser in optimisers.items()}
        return (
            {name: float(value) / seen for name, value in sums.items()}
            | first
            | {name: norm / updates for name, norm in norms.items()}
            | rates
        )

    @staticmethod
    def _mean_kl(found: dict[str, torch.Tensor], batch: SAPairs) -> float:
        """How far the policy has moved from the one that sampled, in nats a token; 0 of a value model alone."""
        kl = float(found.get("approx_kl", 0.0)) / len(batch)
        if not math.isfinite(kl):
            raise NumericalFault("the KL to the policy that sampled is NaN or infinite")
        return kl

    def _check_schedule(self) -> None:
        """Refuse to go on when the learning rate has run out: nothing would be learnt any more."""
        config, done = self.config, self.policy_optimiser.steps_done
        if config.lr_schedule != "constant" and done >= self.total_updates:
            raise ConfigError(
                [
                    f"steps is {config.steps} and all are done, so the {config.lr_schedule} schedule has ended; set steps "
                    "higher, or lr_schedule to constant"
                ]
            )

    def _accumulate(
        self, batch: SAPairs, model: PolicyModel | ValueModel, optimisers: Iterable[Optimiser], part_loss: PartLoss
    ) -> dict[str, torch.Tensor]:
        """Add up a mini-batch's gradient over its micro-batches. Returns the sums for metrics."""
        size, sums = Size(len(batch), batch.sequences), Counter()

        def work(_, micro: SAPairs) -> None:
            part = part_loss(micro, size)
            with model.base.role(model.role):  # checkpointed activations are computed anew in here
                part.loss.backward()
            sums.update({name: value.detach() for name, value in part.sums.items()})

        def start_over() -> None:
            sums.clear()
            for optimiser in optimisers:
                optimiser.forget_gradients()

        try_micro_batches(batch, self.budget, work, start_over)
        return sums

"""Step 7: train the value model and the policy on one step's pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch

from ppo_lm.base_setup import Optimiser
from ppo_lm.config import PPOConfig
from ppo_lm.errors import ConfigError
from ppo_lm.experience_buffer import ExperienceBuffer, TokenBudget, try_micro_batches
from ppo_lm.models import PolicyModel, ValueModel
from ppo_lm.training import policy_loss, value_loss
from ppo_lm.types import SAPairs


class Part(NamedTuple):
    """What one micro-batch adds to its mini-batch: its share of the loss, and sums over its tokens for metrics."""

    loss: torch.Tensor
    sums: dict[str, torch.Tensor]


class ModelTrainer:
    """Two optimisers, one a model: `ppo_epochs` passes over the pairs, `mini_batches` optimiser steps a pass.

    A mini-batch's loss is a mean over its tokens, whatever the micro-batches it is computed in.
    """

    def __init__(self, policy: PolicyModel, value_model: ValueModel, config: PPOConfig):
        self.policy, self.value_model, self.config = policy, value_model, config
        self.total_steps = config.steps * config.ppo_epochs * config.mini_batches
        settings = dict(schedule=config.lr_schedule, total_steps=self.total_steps, max_grad_norm=config.max_grad_norm)
        self.policy_optimiser = Optimiser(policy.parameters(), config.learning_rate, **settings)
        self.value_optimiser = Optimiser(value_model.parameters(), config.value_learning_rate, **settings)
        self.policy_buffer, self.value_buffer = ExperienceBuffer(config.seed), ExperienceBuffer(config.seed)
        self.budget = TokenBudget(config.micro_batch_tokens)

    def train_value_model(self, sa_pairs: SAPairs) -> dict[str, float]:
        """Move V towards the column `config.value_target`; needs `values`. Returns means over tokens and optimiser steps."""
        config, target = self.config, self.config.value_target
        self._check_schedule()

        def part_loss(part: SAPairs, tokens: int) -> Part:
            new_values = self.value_model.values(part)
            result = value_loss(new_values, part.require("values"), part.require(target), part.action_mask, config.value_clip, tokens)
            return Part(config.value_coef * result.loss, {"value_loss": result.loss * tokens, "value_clip_fraction": result.clipped_sum})

        metrics, grad_norm = self._train(sa_pairs, self.value_model, self.value_buffer, self.value_optimiser, part_loss)
        return metrics | {"value_grad_norm": grad_norm, "value_learning_rate": self.value_optimiser.learning_rate}

    def train_policy_model(self, sa_pairs: SAPairs) -> dict[str, float]:
        """Climb PPO's clipped objective; needs `advantages`. Returns means over tokens and optimiser steps, and `sampler_gap`: the mean absolute difference,
        in nats a token, between the log-probabilities of the first mini-batch in training, before any update, and while sampling."""
        config, optimiser, gap = self.config, self.policy_optimiser, []
        first = optimiser.steps_done

        def part_loss(part: SAPairs, tokens: int) -> Part:
            new_logprobs = self.policy.action_logprobs(part, config.temperature)
            result = policy_loss(new_logprobs, part.old_logprobs, part.require("advantages"), part.action_mask, config.clip_epsilon, tokens)
            if optimiser.steps_done == first and part.sampler_logprobs is not None:
                gap.append((new_logprobs.detach() - part.sampler_logprobs).abs()[part.action_mask])
            sums = {"policy_loss": result.loss * tokens, "ratio": result.ratio_sum, "clip_fraction": result.clipped_sum, "approx_kl": result.approx_kl_sum}
            return Part(result.loss, sums)

        metrics, grad_norm = self._train(sa_pairs, self.policy, self.policy_buffer, optimiser, part_loss)
        if gap:
            metrics["sampler_gap"] = float(torch.cat(gap).mean())
        return metrics | {"policy_grad_norm": grad_norm, "learning_rate": optimiser.learning_rate}

    def _check_schedule(self) -> None:
        """Refuse to go on when the learning rate has run out: nothing would be learnt any more."""
        config, done = self.config, self.policy_optimiser.steps_done
        if config.lr_schedule != "constant" and done >= self.total_steps:
            raise ConfigError([f"steps is {config.steps} and all are done, so the {config.lr_schedule} schedule has ended; set steps higher, or lr_schedule to constant"])

    def _train(
        self, sa_pairs: SAPairs, model: PolicyModel | ValueModel, buffer: ExperienceBuffer, optimiser: Optimiser, part_loss: Callable[[SAPairs, int], Part]
    ) -> tuple[dict[str, float], float]:
        sums, norms, seen = Counter(), [], 0
        for _ in range(self.config.ppo_epochs):
            for batch in buffer.mini_batches(sa_pairs, self.config.mini_batches):
                sums.update(self._accumulate(batch, model, optimiser, part_loss))
                norms.append(optimiser.step())
                seen += len(batch)
        return {name: float(value) / seen for name, value in sums.items()}, sum(norms) / len(norms)

    def _accumulate(self, batch: SAPairs, model: PolicyModel | ValueModel, optimiser: Optimiser, part_loss: Callable[[SAPairs, int], Part]) -> dict[str, torch.Tensor]:
        """Add up a mini-batch's gradient over its micro-batches. Returns the sums for metrics."""
        tokens, sums = len(batch), Counter()

        def work(_, micro: SAPairs) -> None:
            part = part_loss(micro, tokens)
            with model.base.role(model.role):  # checkpointed activations are computed anew in here
                part.loss.backward()
            sums.update({name: value.detach() for name, value in part.sums.items()})

        def start_over() -> None:
            sums.clear()
            optimiser.forget_gradients()

        try_micro_batches(batch, self.budget, work, start_over)
        return sums

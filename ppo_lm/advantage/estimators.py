"""Advantage estimators by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch

from ppo_lm.advantage.gae_advantage import GAEAdvantage, length_adaptive_lam
from ppo_lm.advantage.group_advantage import GroupAdvantage, leave_one_out, normalised_in_group
from ppo_lm.advantage.return_calculator import ReturnCalculator
from ppo_lm.advantage.td_error import TDError
from ppo_lm.config import PPOConfig
from ppo_lm.errors import ConfigError
from ppo_lm.plugins import Registry
from ppo_lm.types import SAPairs

VALUE_SETTINGS = (
    "value_model",
    "value_warmup_steps",
    "value_backbone",
    "value_target",
    "value_loss",
    "lam_length_scale",
)  # meaningless without a value model


@dataclass(frozen=True)
class Estimator:
    """An advantage estimator and what it needs.

    add_advantages: adds `advantages`, (B, A) and 0 where masked, to pairs with `rewards`, and, if it needs values, the
        column `config.value_target` for the value model to learn. Every setting is an argument; it keeps no state.
    needs_values: trains a value model, and uses its `values`.
    needs_group: compares the responses to one prompt, which are `config.responses_per_prompt` consecutive rows.
    whitens: its advantages are whitened unless `config.whiten_advantages` says otherwise.
    row_by_row: what it adds to a response depends on that response alone, so that some rows can be estimated without
        the others.

    Example::

        def against_the_mean(sa_pairs, config):
            totals = sa_pairs.require("rewards").sum(dim=1, keepdim=True)
            return sa_pairs.with_columns(advantages=(totals - totals.mean()) * sa_pairs.action_mask)

        REINFORCE = Estimator(against_the_mean)  # --advantage_estimator my_file.py:REINFORCE
    """

    add_advantages: Callable[[SAPairs, PPOConfig], SAPairs]
    needs_values: bool = False
    needs_group: bool = False
    whitens: bool = False
    row_by_row: bool = False

    def scores_in_first_update(self, config: PPOConfig) -> bool:
        """Whether the values come from the pass of the value model's first update: all pairs are one mini-batch, whose
        targets follow from its own values row by row, and the value model has a trunk of its own."""
        alone = self.needs_values and config.value_backbone == "separate"
        return alone and self.row_by_row and config.mini_batches == 1

    def problems(self, config: PPOConfig) -> list[str]:
        """One sentence per setting that conflicts with this estimator."""
        name, found = f"advantage_estimator is {config.advantage_estimator}", []
        if self.needs_group and config.responses_per_prompt < 2:
            found.append(
                f"{name} but responses_per_prompt is {config.responses_per_prompt}; it compares the responses to one "
                "prompt, so set at least 2"
            )
        if not self.needs_values:
            defaults = {field.name: field.default for field in fields(config)}
            found += [
                f"{name}, which has no value model, but {setting} is {getattr(config, setting)}; set it to "
                f"{'null' if defaults[setting] is None else defaults[setting]}"
                for setting in VALUE_SETTINGS
                if getattr(config, setting) != defaults[setting]
            ]
        return found


ESTIMATORS: Registry[Estimator] = Registry("advantage_estimator", Estimator)


def find_estimator(config: PPOConfig) -> Estimator:
    """The estimator that the configuration names. Raises `ConfigError` if there is none, or if other settings conflict
    with it."""
    estimator = ESTIMATORS.find(config.advantage_estimator)
    problems = estimator.problems(config)
    if problems:
        raise ConfigError(problems)
    return estimator


def add_gae(sa_pairs: SAPairs, config: PPOConfig) -> SAPairs:
    """TD errors, advantages, and what the value model learns."""
    gamma, gae, returns = config.gamma, GAEAdvantage(), ReturnCalculator()
    lam = length_adaptive_lam(sa_pairs.lengths, config.lam_length_scale) if config.lam_length_scale else config.lam
    sa_pairs = sa_pairs.with_columns(td_errors=TDError().compute_td_errors(sa_pairs, gamma))
    sa_pairs = sa_pairs.with_columns(advantages=gae.compute_gae_advantages(sa_pairs, gamma, lam))
    sa_pairs = returns.add_reward_to_go(sa_pairs, gamma)
    if config.value_target != "returns":
        return sa_pairs
    if config.value_lam is None or (config.value_lam == config.lam and not config.lam_length_scale):
        return returns.add_returns(sa_pairs)
    return returns.add_returns(sa_pairs, gae.compute_gae_advantages(sa_pairs, gamma, config.value_lam))


def add_leave_one_out(sa_pairs: SAPairs, config: PPOConfig) -> SAPairs:
    """RLOO."""
    return _add_group_advantages(sa_pairs, config, leave_one_out)


def add_normalised_in_group(sa_pairs: SAPairs, config: PPOConfig) -> SAPairs:
    """GRPO's."""
    return _add_group_advantages(sa_pairs, config, normalised_in_group)


def _add_group_advantages(
    sa_pairs: SAPairs, config: PPOConfig, compare: Callable[[torch.Tensor], torch.Tensor]
) -> SAPairs:
    advantages = GroupAdvantage().compute_group_advantages(sa_pairs, config.responses_per_prompt, compare)
    return sa_pairs.with_columns(advantages=advantages)


ESTIMATORS.register("gae")(Estimator(add_gae, needs_values=True, whitens=True, row_by_row=True))
ESTIMATORS.register("rloo")(Estimator(add_leave_one_out, needs_group=True))
ESTIMATORS.register("group")(Estimator(add_normalised_in_group, needs_group=True))

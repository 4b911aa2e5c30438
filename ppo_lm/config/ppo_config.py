"""The settings of a PPO run. Does not import torch."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from ppo_lm.config.clashes import top_p_clashes
from ppo_lm.config.data_settings import PromptSettings
from ppo_lm.config.end_settings import EndSettings
from ppo_lm.config.engine_settings import REMOTE, EngineSettings, remote_clashes
from ppo_lm.config.field_types import (
    MAY_CHANGE,
    SETS_LENGTH,
    FormerName,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    Text,
    Topic,
    ZeroOrAboveOne,
)
from ppo_lm.config.model_settings import ModelSettings
from ppo_lm.config.optimiser_settings import OptimiserSettings
from ppo_lm.config.reward_settings import RewardSettings
from ppo_lm.config.run_settings import CheckpointSettings, OptionalFolderSettings, StoppingSettings
from ppo_lm.config.settings import checked

EVALUATIONS = ("sampled/", "near_greedy/")  # how the names of their metrics begin


@checked
@dataclasses.dataclass(kw_only=True)
class PPOConfig(
    PromptSettings,
    RewardSettings,
    ModelSettings,
    EndSettings,
    OptimiserSettings,
    EngineSettings,
    StoppingSettings,
    CheckpointSettings,
    OptionalFolderSettings,
):
    """Every setting of a run. All problems are reported at once, when the config is created."""

    EVERYDAY = (
        "model_name",
        "prompts",
        "reward",
        "steps",
        "batch_size",
        "max_new_tokens",
        "learning_rate",
        "kl_coef",
        "seed",
        "output_dir",
    )

    REWARD = Topic("Reward")

    reward_normalise: bool = False
    """Normalise each reward to mean 0 and variance 1 over the batch, before clipping and weighting."""
    monitor: Annotated[str | None, MAY_CHANGE] = None
    """Anything that reward accepts, such as a function or a reward model: logged but never trained on."""
    missing_eos_score: float | None = None
    """Score of a response that reaches max_new_tokens without an EOS token or a stop string, whatever the reward says.
    Default: keep the reward's score."""

    SAMPLING = Topic("Sampling")

    batch_size: PositiveInt = 32
    """Responses sampled per step."""
    responses_per_prompt: PositiveInt = 1
    """Responses per prompt; a step has batch_size / responses_per_prompt prompts."""
    max_new_tokens: PositiveInt = 10
    """Longest response, in tokens."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature. Old, new and reference log-probabilities are all those of the sampling distribution."""
    top_k: NonNegativeInt = 50
    """Sample only from the k most likely tokens; 0 for all."""
    top_p: PositiveFraction = 0.95
    """Sample only from the most likely tokens whose probabilities add up to top_p; 1 for all."""

    KL = Topic("KL penalty")

    kl_coef: NonNegativeFloat = 0.1
    """KL penalty coefficient: kl_coef times its KL to the reference is subtracted from each token's reward."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """Estimator of each token's KL (Schulman, "Approximating KL divergence")."""
    kl_in: Literal["reward", "loss"] = "reward"
    """Where the KL penalty goes: into the reward of each token, or into the policy loss, where its gradient is unbiased
    in each state."""
    adaptive_kl_target: Annotated[NonNegativeFloat, FormerName("kl_target")] = 0.0
    """Adapt kl_coef to hold the KL near this many nats per response (1909.08593: target 6, kl_coef initially 0.15); 0
    for a fixed kl_coef."""
    adaptive_kl_horizon: Annotated[PositiveInt, FormerName("kl_horizon")] = 10_000
    """Number of responses over which an adaptive kl_coef changes by at most 20%."""

    ADVANTAGES = Topic("Advantages and values")

    gamma: Fraction = 0.99
    """Discount factor per token."""
    advantage_estimator: Text = "gae"
    """gae uses a value model; rloo (RLOO) and group (GRPO) compare each response with the others to its prompt and need
    responses_per_prompt of at least 2; or your own, as module:name or file.py:name."""
    lam: Fraction = 0.95
    """λ of generalised advantage estimation (GAE)."""
    lam_length_scale: NonNegativeFloat = 0.0
    """Length-adaptive λ: 1 - 1 / (lam_length_scale * length) for each response (VAPO: 0.05, for long responses); 0 uses
    lam."""
    whiten_rewards: bool = False
    """Scale rewards to variance 1 over the batch, keeping their mean."""
    whiten_advantages: bool | None = None
    """Normalise advantages to mean 0 and variance 1 over the batch. Default: depends on the estimator; gae does, rloo
    and group, which already compare responses, do not."""
    value_target: Literal["reward_to_go", "returns"] = "reward_to_go"
    """Target of the value model: the discounted sum of rewards (λ = 1), or returns (advantages + values)."""
    value_lam: Fraction | None = None
    """λ of the advantages in returns. Default: the λ of the policy's advantages."""
    value_model: str | None = None
    """Initial value model: the folder of a `ppo-lm value` run, or "embedded". Default: the first reward model, or a
    zero head if the rewards are functions."""
    value_warmup_steps: NonNegativeInt = 0
    """Train only the value model for this many steps at the start."""
    value_backbone: Literal["separate", "shared"] = "separate"
    """separate: the value model has its own adapter or weights; shared: it is a head on the policy's hidden states, and
    one pass trains both, in less time and memory."""

    LOSSES = Topic("Losses")

    policy_loss: Text = "clip"
    """Policy loss: clip (PPO), or your own, as module:name or file.py:name."""
    clip_epsilon: PositiveFraction = 0.2
    """PPO's clip range: the probability ratio is clipped to 1 ± clip_epsilon."""
    clip_epsilon_high: PositiveFloat | None = None
    """Upper clip range ("clip-higher", DAPO). Default: clip_epsilon."""
    dual_clip: ZeroOrAboveOne = 0.0
    """Where the advantage is negative, cap a token's loss at dual_clip times its size (dual-clip PPO, 1912.09729);
    usually 3, 0 for no cap."""
    old_logprobs: Literal["sampled", "recomputed"] = "sampled"
    """Log-probabilities of the old policy: as sampled, so that the ratio is an exact importance weight, or recomputed
    by the training pass, which rounds differently unless weights are float32."""
    importance_cap: ZeroOrAboveOne = 0.0
    """With recomputed old_logprobs, weight each token by recomputed over sampled probability, up to this cap (truncated
    importance sampling); usually 2, 0 for no weights."""
    importance_mode: Literal["truncate", "mask"] = "truncate"
    """What happens to weights out of bounds: truncate holds those above importance_cap at it; mask sets them, and those
    below importance_floor, to 0 (double-sided importance weights, IcePop, 2510.18855)."""
    importance_floor: Fraction = 0.0
    """With importance_mode mask, the smallest weight that is kept; usually 0.5, with an importance_cap of 5."""
    max_staleness: NonNegativeInt = 0
    """Sample up to this many batches ahead, with the policy of that time; with an engine in another process, while the
    policy is being trained. With recomputed old_logprobs and importance_cap, the loss corrects for it."""
    target_kl: NonNegativeFloat = 0.0
    """Skip a step's remaining policy updates once the policy is this many nats per token from the one that sampled; 0
    for never."""
    loss_aggregation: Literal["token_mean", "sequence_mean"] = "token_mean"
    """Average the policy loss over all tokens, or over each response and then over responses."""
    entropy_coef: NonNegativeFloat = 0.0
    """Entropy bonus coefficient."""
    value_loss: Text = "clipped"
    """Value loss: clipped (squared error, see value_clip), or your own, as module:name or file.py:name."""
    value_clip: NonNegativeFloat = 0.2
    """Clip range of the value loss; 0 for no clipping."""
    value_coef: PositiveFloat = 1.0
    """Value loss coefficient, applied before gradient clipping."""

    OPTIMISATION = Topic("Optimisation")

    steps: Annotated[PositiveInt, SETS_LENGTH] = 100
    """PPO steps; each samples, scores and trains on one batch. With --resume, the run gets this length."""
    ppo_epochs: PositiveInt = 4
    """Passes over each batch."""
    mini_batches: PositiveInt = 1
    """Optimiser steps per pass, on batch_size / mini_batches responses each."""
    learning_rate: PositiveFloat = 1e-5
    """Peak learning rate of the policy."""
    value_learning_rate: PositiveFloat = 1e-4
    """Peak learning rate of the value model."""
    max_grad_norm: PositiveFloat = 1.0
    """Clip the gradient norm of the policy, and that of the value model, at this value."""

    MEMORY = Topic("Memory and speed")

    micro_batch_tokens: PositiveInt | None = None
    """Tokens, prompts included, per forward pass when scoring and training; halved when memory runs out. Changes memory
    and speed, not results. Default: 1024 on a CPU; on a GPU, what fits into half of its free memory."""
    rollout_slots: PositiveInt | None = None
    """Responses sampled at once, in evaluations even if batch_size is smaller; when one ends, the next prompt takes its
    slot. Changes memory and speed, not the distribution. Default: 64 on a CPU; on a GPU 512, or what fits into a
    quarter of its free memory."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    fast: bool = True
    """Passes without padding, fused adapters, sampling in slots, one pass through a frozen head; false uses the code of
    transformers and peft."""

    EVALUATION = Topic("Evaluation")

    eval_every: NonNegativeInt = 0
    """Steps between evaluations; best/ keeps the policy with the best monitor, or score if there is none. 0: evaluate
    only before and after training."""
    eval_temperature: NonNegativeFloat = 0.01
    """Temperature of evaluations, over the full vocabulary; 0 is greedy."""

    STOPPING = Topic("Stopping early")

    max_dropped: Annotated[PositiveInt, MAY_CHANGE] = 3
    """Stop after this many consecutive steps are skipped because of NaN or inf."""
    kl_limit: Annotated[NonNegativeFloat, MAY_CHANGE] = 0.0
    """Stop when a step's KL to the reference is above this many nats per response; 0 for never."""

    RUN = Topic("Run folder")

    COMMAND_FOLDER = "runs/ppo"

    output_dir: Annotated[str | None, MAY_CHANGE] = None
    """Folder for config, metrics, samples, plot, adapter and merged model; null to write nothing. Default: runs/ppo, or
    runs/ppo-2 and so on if it is taken; from Python, nothing is written."""
    samples_every: Annotated[PositiveInt, MAY_CHANGE] = 10
    """Steps between samples in samples.jsonl; the last step is always included."""
    token_samples_every: Annotated[NonNegativeInt, MAY_CHANGE] = 10
    """Steps between looks at 8 responses token by token, kept in tokens/ for `ppo-lm report`; the last step is always
    included. 0: none."""
    save_merged: bool = True
    """Also save the policy merged into the base model, as a plain transformers model."""

    def clashes(self) -> list[str]:
        return [
            *super().clashes(),
            *(remote_clashes(self) if self.engine in REMOTE else top_p_clashes(self.top_k, self.top_p)),
            *self._batch_clashes(),
            *self._kl_clashes(),
            *self._value_clashes(),
        ]

    def _batch_clashes(self) -> list[str]:
        clashes = []
        if self.shard_base and self.engine in ("slots", "graphs"):
            clashes.append(
                f"engine is {self.engine}, which needs all weights in one process, but shard_base is set; set engine "
                "to auto, or shard_base to false"
            )
        if self.quantise_base != "none" and self.engine in ("slots", "graphs"):
            clashes.append(
                f"engine is {self.engine}, which would hold all weights unquantised, but quantise_base is "
                f"{self.quantise_base}; set engine to auto, or quantise_base to none"
            )
        if self.mini_batches > self.batch_size:
            clashes.append(
                f"mini_batches is {self.mini_batches} but batch_size is {self.batch_size}; a mini-batch needs at least "
                "one response"
            )
        if self.batch_size % self.responses_per_prompt:
            clashes.append(
                f"batch_size is {self.batch_size} but responses_per_prompt is {self.responses_per_prompt}; make "
                "batch_size a multiple of responses_per_prompt"
            )
        if self.importance_cap and self.old_logprobs == "sampled":
            clashes.append(
                "importance_cap is set but old_logprobs is sampled, so the ratio is already an exact importance "
                "weight; set old_logprobs to recomputed"
            )
        if self.importance_mode == "mask" and not self.importance_cap:
            clashes.append(
                "importance_mode is mask but importance_cap is 0, so there are no weights; set importance_cap"
            )
        if self.importance_floor and self.importance_mode == "truncate":
            clashes.append(
                f"importance_floor is {self.importance_floor} but importance_mode is truncate, which only has a cap; "
                "set importance_mode to mask"
            )
        if self.eval_every and not self.eval_prompts:
            clashes.append(f"eval_every is {self.eval_every} but eval_prompts is 0; hold out some prompts")
        if (self.stop_metric or "").startswith(EVALUATIONS) and not self.eval_every:
            clashes.append(
                f"stop_metric is {self.stop_metric} but eval_every is 0, so it is only measured before and after "
                "training; set eval_every"
            )
        return clashes

    def _kl_clashes(self) -> list[str]:
        clashes = []
        if self.adaptive_kl_target and not self.kl_coef:
            clashes.append(
                "adaptive_kl_target is set but kl_coef is 0, and would stay 0; set kl_coef to an initial value"
            )
        if self.adaptive_kl_target and self.batch_size > self.adaptive_kl_horizon:
            clashes.append(
                f"adaptive_kl_horizon is {self.adaptive_kl_horizon} but batch_size is {self.batch_size}; one step "
                "would overshoot, so set adaptive_kl_horizon to about ten times batch_size"
            )
        if self.kl_in == "loss" and not self.kl_coef:
            clashes.append("kl_in is loss but kl_coef is 0, so there is no KL penalty; set kl_coef, or remove kl_in")
        if self.target_kl and self.ppo_epochs * self.mini_batches == 1:
            clashes.append("target_kl is set but ppo_epochs and mini_batches are 1, so there is no update to skip")
        if self.target_kl and self.value_backbone == "shared":
            clashes.append(
                "target_kl is set but value_backbone is shared, where one update trains both policy and value model; "
                "set value_backbone to separate"
            )
        return clashes

    def _value_clashes(self) -> list[str]:
        clashes = []
        if self.value_model and self.value_backbone == "shared":
            clashes.append(
                "value_model is set but value_backbone is shared, which only has a new head; set value_backbone to "
                "separate, or value_model to null"
            )
        if self.value_warmup_steps and self.value_backbone == "shared":
            clashes.append(
                "value_warmup_steps is set but value_backbone is shared, where only the head could be trained; set "
                "value_backbone to separate"
            )
        if self.value_warmup_steps >= self.steps:
            clashes.append(
                f"value_warmup_steps is {self.value_warmup_steps} but steps is {self.steps}; the policy would never be "
                "trained"
            )
        if self.value_lam is not None and self.value_target == "reward_to_go":
            clashes.append(
                "value_lam is set but value_target is reward_to_go, which is λ = 1; set value_target to returns"
            )
        return clashes

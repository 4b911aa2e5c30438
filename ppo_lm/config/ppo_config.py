"""The settings of a PPO run. Importing this imports no torch."""

from __future__ import annotations

from typing import ClassVar

from ppo_lm.config.data_settings import PromptSettings
from ppo_lm.config.reward_settings import RewardSettings
from ppo_lm.config.settings import (
    AT_LEAST_ONE,
    NOT_NEGATIVE,
    OFF_OR_ABOVE_ONE,
    POSITIVE,
    PROBABILITY,
    SHARE,
    ModelSettings,
    one_of,
    sampling_clashes,
    settings,
)


@settings
class PPOConfig(PromptSettings, RewardSettings, ModelSettings):
    """Every setting of a run. All problems are reported at once, when the config is made."""

    eval_every: int = 0
    """Evaluate every so many steps, and keep the policy that did best, by the monitor or else by the score, in best/;
    0: only before and after training."""
    eval_temperature: float = 0.01
    """Temperature of the evaluations, over the full vocabulary; 0 is greedy."""

    batch_size: int = 32
    """Sampled responses a step."""
    responses_per_prompt: int = 1
    """Responses to each prompt of a step, so that it has batch_size / responses_per_prompt prompts."""
    max_new_tokens: int = 10
    """Longest response, in tokens."""
    temperature: float = 1.0
    """Divides the logits when sampling; old, new and reference log-probabilities are all under the sampling
    distribution."""
    top_k: int = 50
    """Sample from the so many likeliest tokens only; 0 for all."""
    top_p: float = 0.95
    """Sample from the likeliest tokens that together reach this probability only; 1 for all."""

    reward_normalise: bool = False
    """Shift and scale each reward to mean 0 and variance 1 over the batch, before it is clipped and weighted."""
    monitor: str | None = None
    """A function like a reward (module:function or file.py:function) that is only logged and never trained on."""
    missing_eos_score: float | None = None
    """Replaces the score of a response that ran into max_new_tokens without ending; none keeps its score."""
    kl_coef: float = 0.1
    """Weight of the per-token KL penalty towards the reference: reward = score - kl_coef * kl."""
    kl_estimator: str = "k1"
    """Estimator of the per-token KL: k1, k2 or k3 (Schulman, "Approximating KL divergence")."""
    kl_in: str = "reward"
    """Where the KL penalty goes: reward (a part of every token's reward) or loss (a part of the policy's loss, with a
    gradient that is unbiased in each state)."""
    kl_target: float = 0.0
    """Steer kl_coef so that the KL stays near so many nats a response (Ziegler et al. start with kl_coef 0.15 and take
    6); 0 leaves it as it is."""
    kl_horizon: int = 10_000
    """Responses over which kl_coef grows or shrinks by a fifth at most, when it is steered."""

    gamma: float = 0.99
    """Discount per token."""
    advantage_estimator: str = "gae"
    """gae, with a value model; or without one, rloo or group, which compare the responses to one prompt (RLOO, GRPO)
    and so need responses_per_prompt; or your own, as module:name or path/file.py:name."""
    lam: float = 0.95
    """The λ of generalised advantage estimation."""
    lam_length_scale: float = 0.0
    """Use λ = 1 - 1 / (scale * length) of each response in place of lam (VAPO takes 0.05, for long responses); 0 for
    lam."""
    whiten_rewards: bool = False
    """Scale rewards to variance 1 over the batch, keeping their mean."""
    whiten_advantages: bool | None = None
    """Shift and scale advantages to mean 0 and variance 1 over the batch; none: as the estimator prefers (gae: yes;
    rloo and group, which compare responses already: no)."""
    value_target: str = "reward_to_go"
    """What the value model learns: reward_to_go (discounted sum of rewards, which is λ = 1) or returns (advantages +
    values)."""
    value_lam: float | None = None
    """The λ of the advantages in returns; none: that of the policy's advantages."""
    value_model: str | None = None
    """The folder of a `ppo-lm value` run, or "embedded": where the value model starts; none: from the first reward
    model, or from 0 where functions score."""
    value_warmup_steps: int = 0
    """Train the value model alone in the first so many steps."""

    ppo_epochs: int = 4
    """Passes over each batch."""
    mini_batches: int = 1
    """Optimiser steps a pass; each sees batch_size / mini_batches responses."""
    micro_batch_tokens: int = 1024
    """Tokens, prompts included, in memory at once while scoring and training; halved when memory runs out. Changes
    memory and speed, no result."""
    rollout_slots: int = 64
    """Responses sampled at once; halved when memory runs out. Changes memory and speed, not the distribution."""
    engine: str = "auto"
    """What samples: slots (own layers; the next prompt takes the place of a response that ends), transformers (its
    forward pass), auto (slots where the model allows it), or an engine of your own as path/file.py:name."""
    old_logprobs: str = "sampled"
    """The old policy's log-probabilities: sampled (of the distribution that was sampled from, which makes the ratio an
    exact importance weight) or recomputed (by the training pass, which rounds differently where the weights are not
    float32)."""
    value_backbone: str = "separate"
    """Where the value model reads: separate (an adapter, or a copy, of its own) or shared (a head on the policy's
    hidden states, both trained in one pass: less time and memory)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""
    fast: bool = True
    """Passes without padding, adapters in one operation, sampling in slots; false goes through transformers' and peft's
    own code."""
    learning_rate: float = 1e-5
    """Peak learning rate of the policy."""
    value_learning_rate: float = 1e-4
    """Peak learning rate of the value model."""
    lr_schedule: str = "linear"
    """How both learning rates fall to 0 over the run, t being the share of it that is done: linear, cosine, cubic as (1
    - t)^3, inverse as (1 - t) / (1 + 8 t), which is high at first and fine for long; or constant."""
    adam_epsilon: float = 1e-5
    """The ε of AdamW, as in OpenAI's PPO; smaller, weights with smaller gradients move as far as others."""
    policy_loss: str = "clip"
    """The policy's loss: clip (PPO's clipped surrogate), or your own, as module:name or path/file.py:name."""
    clip_epsilon: float = 0.2
    """PPO's clip range: the ratio counts within 1 ± clip_epsilon."""
    clip_epsilon_high: float | None = None
    """The upper half of the clip range, where it is another ("clip-higher", DAPO); none: clip_epsilon."""
    dual_clip: float = 0.0
    """Where the advantage is negative, no token's loss is over dual_clip times it, whatever the ratio; above 1, usually
    3; 0 for no such bound."""
    target_kl: float = 0.0
    """Leave out the rest of a step's policy updates once the policy has moved so many nats a token from the one that
    sampled; 0 for never."""
    importance_cap: float = 0.0
    """With old_logprobs recomputed: weight each token by the recomputed over the sampled probability, at most by so
    much; above 1, usually 2; 0 for no weights."""
    loss_aggregation: str = "token_mean"
    """The policy's loss is a mean over tokens (token_mean) or over responses of means over their tokens
    (sequence_mean)."""
    entropy_coef: float = 0.0
    """Weight of the entropy, in nats a token, that the policy is paid for in its loss."""
    value_loss: str = "clipped"
    """The value model's loss: clipped (squared error, clipped around the old value), or your own, as module:name or
    path/file.py:name."""
    value_clip: float = 0.2
    """Clip range of the value around its old estimate; 0 for none."""
    value_coef: float = 1.0
    """Multiplies the value loss, before its gradient is clipped."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are scaled down to it, policy and value each on their own."""

    max_dropped: int = 3
    """Stop the run after so many steps in a row that were dropped because a number in them was NaN or infinite."""
    kl_limit: float = 0.0
    """Stop the run when a step's KL to the reference, in nats a response, exceeds this; 0 for never."""

    steps: int = 100
    """PPO steps of `train`: each samples, scores and trains on one batch."""
    output_dir: str | None = None
    """Folder of the run: config, metrics, samples, picture, adapter, merged model; none writes nothing."""
    samples_every: int = 10
    """Write a step's samples to samples.jsonl every so many steps, and at the last."""
    save_every: int = 10
    """Save a checkpoint to resume from before the first step and every so many steps; none is left when the run has
    ended. 0: only when it is paused."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints to keep; with one alone, a damaged disk has none to fall back on."""
    save_merged: bool = True
    """Also save the policy merged into the base, as a plain transformers model."""

    MAY_CHANGE: ClassVar = (
        "output_dir",
        "reward",
        "monitor",
        "device",
        "samples_every",
        "save_every",
        "keep_checkpoints",
        "max_dropped",
        "kl_limit",
    )  # when a run is resumed

    RULES: ClassVar = {
        AT_LEAST_ONE: (
            "batch_size",
            "responses_per_prompt",
            "max_new_tokens",
            "kl_horizon",
            "ppo_epochs",
            "mini_batches",
            "micro_batch_tokens",
            "rollout_slots",
            "steps",
            "samples_every",
            "max_dropped",
            "keep_checkpoints",
        ),
        NOT_NEGATIVE: (
            "top_k",
            "eval_every",
            "save_every",
            "kl_coef",
            "kl_target",
            "kl_limit",
            "lam_length_scale",
            "value_warmup_steps",
            "value_clip",
            "target_kl",
            "entropy_coef",
            "eval_temperature",
        ),
        POSITIVE: (
            "temperature",
            "learning_rate",
            "value_learning_rate",
            "adam_epsilon",
            "clip_epsilon_high",
            "value_coef",
            "max_grad_norm",
        ),
        SHARE: ("gamma", "lam", "value_lam"),
        OFF_OR_ABOVE_ONE: ("dual_clip", "importance_cap"),
        PROBABILITY: ("top_p", "clip_epsilon"),
        one_of("linear", "cubic", "inverse", "cosine", "constant"): ("lr_schedule",),
        one_of("k1", "k2", "k3"): ("kl_estimator",),
        one_of("reward", "loss"): ("kl_in",),
        one_of("token_mean", "sequence_mean"): ("loss_aggregation",),
        one_of("sampled", "recomputed"): ("old_logprobs",),
        one_of("separate", "shared"): ("value_backbone",),
        one_of("reward_to_go", "returns"): ("value_target",),
    }

    def clashes(self) -> list[str]:
        clashes = [*super().clashes(), *sampling_clashes(self.top_k, self.top_p)]
        if self.mini_batches > self.batch_size:
            clashes.append(
                f"mini_batches is {self.mini_batches} but batch_size is {self.batch_size}; a mini-batch needs at "
                "least one response"
            )
        if self.batch_size % self.responses_per_prompt:
            clashes.append(
                f"batch_size is {self.batch_size} but responses_per_prompt is {self.responses_per_prompt}; make the "
                "first a multiple of the second"
            )
        if self.value_model and self.value_backbone == "shared":
            clashes.append(
                "value_model is set but value_backbone is shared, a head alone; set value_backbone to separate, or "
                "value_model to null"
            )
        if self.value_warmup_steps and self.value_backbone == "shared":
            clashes.append(
                "value_warmup_steps is set but value_backbone is shared, so that the value model has no weights but "
                "its head; set value_backbone to separate"
            )
        if self.value_warmup_steps >= self.steps > 0:
            clashes.append(
                f"value_warmup_steps is {self.value_warmup_steps} but steps is {self.steps}; the policy would never "
                "be trained"
            )
        if self.importance_cap and self.old_logprobs == "sampled":
            clashes.append(
                "importance_cap is set but old_logprobs is sampled, where the ratio is an exact importance weight "
                "already; set old_logprobs to recomputed"
            )
        clashes += [*self._kl_clashes(), *self._target_kl_clashes()]
        if self.value_lam is not None and self.value_target == "reward_to_go":
            clashes.append(
                "value_lam is set but value_target is reward_to_go, which is λ = 1; set value_target to returns"
            )
        if self.eval_every > 0 and self.eval_prompts == 0:
            clashes.append(
                f"eval_every is {self.eval_every} but eval_prompts is 0; hold some prompts out to evaluate on"
            )
        return clashes

    def _kl_clashes(self) -> list[str]:
        clashes = []
        if self.kl_target and not self.kl_coef:
            clashes.append(
                "kl_target is set but kl_coef is 0, which no steering changes; set kl_coef to what it starts from"
            )
        if self.kl_target and self.batch_size > self.kl_horizon:
            clashes.append(
                f"kl_horizon is {self.kl_horizon} but batch_size is {self.batch_size}; one step would overshoot, so "
                "set kl_horizon to some ten times batch_size"
            )
        if self.kl_in == "loss" and not self.kl_coef:
            clashes.append(
                "kl_in is loss but kl_coef is 0, so that there is no KL in it; set kl_coef, or leave kl_in out"
            )
        return clashes

    def _target_kl_clashes(self) -> list[str]:
        if not self.target_kl:
            return []
        return [
            *(
                ["target_kl is set but ppo_epochs and mini_batches are 1, so that no update is left to leave out"]
                if self.ppo_epochs * self.mini_batches == 1
                else []
            ),
            *(
                [
                    "target_kl is set but value_backbone is shared, where policy and value model have their updates "
                    "together"
                ]
                if self.value_backbone == "shared"
                else []
            ),
        ]

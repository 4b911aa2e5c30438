"""The settings of a PPO run. Importing this imports no torch."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
from dataclasses import dataclass
from typing import Optional

from ppo_lm.errors import ConfigError

CHOICES = {
    "dtype": ("auto", "float32", "bfloat16"),
    "lr_schedule": ("linear", "constant", "cosine"),
    "kl_estimator": ("k1", "k2", "k3"),
    "value_target": ("reward_to_go", "returns"),
}


@dataclass
class PPOConfig:
    """Every setting of a run. All problems are reported at once, when the config is made."""

    model_name: str = "Qwen/Qwen3-0.6B-Base"
    """The base model: a hub id, a folder, a .gguf file, or "embedded" for the small one that comes with the package."""
    dtype: str = "auto"
    """Weights of the base: float32 or bfloat16; auto is bfloat16 on a GPU (float32 if lora_r is 0), float32 on a CPU."""
    device: str = "auto"
    """Where to run: cuda, cuda:1, mps or cpu; auto takes the first GPU, if there is one."""
    seed: int = 0
    """Seeds the new adapters and heads, the order of the prompts, the sampling and the mini-batches."""

    lora_r: int = 16
    """Rank of the new adapters; 0 trains all weights of policy and value instead. A value model that starts from a reward model has that one's rank."""
    lora_alpha: float = 32
    """Scale of the adapters: their output is multiplied by lora_alpha / lora_r."""
    lora_dropout: float = 0.1
    """Dropout written into the adapters' configuration; PPO itself samples and trains with every dropout off."""
    lora_targets: str = "all-linear"
    """Modules that get an adapter: all-linear, or comma-separated names such as q_proj,v_proj."""

    prompts: Optional[str] = None
    """Prompts to train on: "embedded", a .txt file (one a line), a .jsonl file, or a hub data set id; needed for `train`."""
    prompt_column: str = "prompt"
    """The column that holds the prompt; all other columns are passed on to the reward function."""
    eval_prompts: int = 128
    """How many prompts to hold out for the evaluations, drawn with the seed, at most half of them; 0 for none."""
    eval_every: int = 0
    """Evaluate every so many steps; 0 only before and after training."""
    eval_temperature: float = 0.01
    """Temperature of the evaluations, over the full vocabulary; 0 is greedy."""

    batch_size: int = 32
    """Prompts, and so sampled responses, a step."""
    max_new_tokens: int = 10
    """Longest response, in tokens."""
    temperature: float = 1.0
    """Divides the logits when sampling; old, new and reference log-probabilities are all under the sampling distribution."""
    top_k: int = 50
    """Sample from the so many likeliest tokens only; 0 for all."""
    top_p: float = 0.95
    """Sample from the likeliest tokens that together reach this probability only; 1 for all."""

    reward: Optional[str] = None
    """What scores a response: module:function, file.py:function, a reward model's folder, or "embedded"; none: TL;DR heuristics."""
    monitor: Optional[str] = None
    """A function like a reward (module:function or file.py:function) that is only logged and never trained on."""
    missing_eos_score: Optional[float] = None
    """Replaces the score of a response that ran into max_new_tokens without ending; none keeps its score."""
    kl_coef: float = 0.1
    """Weight of the per-token KL penalty towards the reference: reward = score - kl_coef * kl."""
    kl_estimator: str = "k1"
    """Estimator of the per-token KL: k1, k2 or k3 (Schulman, "Approximating KL divergence")."""

    gamma: float = 0.99
    """Discount per token."""
    lam: float = 0.95
    """The λ of generalised advantage estimation."""
    whiten_rewards: bool = False
    """Scale rewards to variance 1 over the batch, keeping their mean."""
    whiten_advantages: bool = True
    """Shift and scale advantages to mean 0 and variance 1 over the batch."""
    value_target: str = "reward_to_go"
    """What the value model learns: reward_to_go (discounted sum of rewards) or returns (advantages + values)."""

    ppo_epochs: int = 4
    """Passes over each batch."""
    mini_batches: int = 1
    """Optimiser steps a pass; each sees batch_size / mini_batches responses."""
    micro_batch_size: int = 8
    """Responses in memory at once while scoring and training; changes memory and speed, no result."""
    learning_rate: float = 1e-5
    """Peak learning rate of the policy."""
    value_learning_rate: float = 1e-4
    """Peak learning rate of the value model."""
    lr_schedule: str = "linear"
    """How both learning rates fall over the run: linear (to 0), cosine or constant."""
    clip_epsilon: float = 0.2
    """PPO's clip range: the ratio counts within 1 ± clip_epsilon."""
    value_clip: float = 0.2
    """Clip range of the value around its old estimate; 0 for none."""
    value_coef: float = 1.0
    """Multiplies the value loss, before its gradient is clipped."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are scaled down to it, policy and value each on their own."""

    steps: int = 100
    """PPO steps of `train`: each samples, scores and trains on one batch."""
    output_dir: Optional[str] = None
    """Folder of the run: config, metrics, samples, picture, adapter, merged model; none writes nothing."""
    samples_every: int = 10
    """Write a step's samples to samples.jsonl every so many steps, and at the last."""
    save_merged: bool = True
    """Also save the policy merged into the base, as a plain transformers model."""

    def __post_init__(self):
        problems = self.problems()
        if problems:
            raise ConfigError(problems)

    def problems(self) -> list[str]:
        """One sentence for everything that is wrong; empty if nothing is."""
        found = _wrong_types(self)
        for name in ("batch_size", "max_new_tokens", "ppo_epochs", "mini_batches", "micro_batch_size", "steps", "samples_every"):
            _require(found, self, name, "at least 1", lambda value: value >= 1)
        for name in ("lora_r", "top_k", "eval_prompts", "eval_every", "seed"):
            _require(found, self, name, "0 or more", lambda value: value >= 0)
        for name in ("temperature", "lora_alpha", "learning_rate", "value_learning_rate", "clip_epsilon", "value_coef", "max_grad_norm"):
            _require(found, self, name, "above 0", lambda value: value > 0)
        for name in ("kl_coef", "value_clip", "eval_temperature"):
            _require(found, self, name, "0 or more", lambda value: value >= 0)
        for name in ("gamma", "lam"):
            _require(found, self, name, "between 0 and 1", lambda value: 0 <= value <= 1)
        _require(found, self, "top_p", "above 0 and at most 1", lambda value: 0 < value <= 1)
        _require(found, self, "lora_dropout", "at least 0 and below 1", lambda value: 0 <= value < 1)
        for name in ("model_name", "prompt_column", "lora_targets"):
            _require(found, self, name, "not empty", lambda value: bool(value.strip()))
        for name, choices in CHOICES.items():
            _require(found, self, name, f"one of {', '.join(choices)}", lambda value, choices=choices: value in choices)
        if found:
            return list(found.values())
        clashes = []
        if self.mini_batches > self.batch_size:
            clashes.append(f"mini_batches is {self.mini_batches} but batch_size is {self.batch_size}; a mini-batch needs at least one response")
        if self.top_p < 1 and self.top_k == 0:
            clashes.append(
                f"top_p is {self.top_p} but top_k is 0; the tokens that top-p leaves are kept for training and could be the whole vocabulary for every "
                "token sampled: set top_k too (1000 hardly cuts more), or top_p 1"
            )
        if self.lora_r == 0 and self.dtype == "bfloat16":
            clashes.append("lora_r is 0 but dtype is bfloat16; training all weights needs dtype float32 (or auto)")
        if self.eval_every > 0 and self.eval_prompts == 0:
            clashes.append(f"eval_every is {self.eval_every} but eval_prompts is 0; hold some prompts out to evaluate on")
        return clashes


def _naming_unknown_fields(initialise):
    """Wrap the dataclass's `__init__`, so that a field it does not have is a `ConfigError` like any other problem."""

    @functools.wraps(initialise)
    def checked(self, *values, **fields):
        known = [field.name for field in dataclasses.fields(self)]
        problems = []
        for name in fields:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                problems.append(f"there is no field {name!r}" + (f"; did you mean {near[0]!r}?" if near else "; `main.py --help` lists them"))
        if problems:
            raise ConfigError(problems)
        initialise(self, *values, **fields)

    return checked


PPOConfig.__init__ = _naming_unknown_fields(PPOConfig.__init__)


def _require(found: dict[str, str], config: PPOConfig, name: str, rule: str, holds) -> None:
    value = getattr(config, name)
    if name not in found and not holds(value):
        found[name] = f"{name} is {value!r}; it must be {rule}"


def _wrong_types(config: PPOConfig) -> dict[str, str]:
    """A sentence for each field whose value has the wrong type, by name."""
    found = {}
    for field in dataclasses.fields(config):
        value, kind = getattr(config, field.name), field.type
        if kind.startswith("Optional[") and value is None:
            continue
        kind = kind.removeprefix("Optional[").rstrip("]")
        good = {
            "int": isinstance(value, int) and not isinstance(value, bool),
            "float": isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value),
            "bool": isinstance(value, bool),
            "str": isinstance(value, str),
        }[kind]
        if not good:
            kinds = {"int": "a whole number", "float": "a finite number", "bool": "true or false", "str": "text"}
            found[field.name] = f"{field.name} is {value!r}; it must be {kinds[kind]}"
    return found

"""What a setting of a run is called by another program, and what differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ppo_lm.config import PPOConfig

ALL_LINEAR = "all-linear"
HEAD = "score"  # the output layer of a critic in both programs
NEVER = 1e9  # a clip range that is never reached, for programs that cannot switch clipping off

OUR_OWN = (  # how ppo_lm itself runs and what it records: nothing that another program could follow
    "device",
    "engine",
    "engine_folder",
    "engine_timeout",
    "engine_urls",
    "fast",
    "max_dropped",
    "output_dir",
    "recorders",
    "reward_timeout",
    "rollout_slots",
    "samples_every",
    "save_merged",
    "shard_base",
    "token_samples_every",
)
IN_THE_FILES = (  # what the exported data, models and rewards have been made with
    "allow_special_tokens",
    "data_split",
    "data_subset",
    "lora_dropout",  # PPO runs without dropout
    "max_prompt_tokens",
    "model_name",
    "prompt_column",
    "prompts",
    "reward",
    "reward_weights",
    "value_model",
)


class InFolder(NamedTuple):
    """The value of an option: a path in the exported folder."""

    path: str


@dataclass(frozen=True)
class Mapped:
    """`settings`: ours. `options`: the other program's names and values, empty if it has nothing like them. `remark`: a
    sentence about what differs, for people; empty if nothing does."""

    settings: Sequence[str]
    options: Mapping[str, object] = field(default_factory=dict)
    remark: str = ""


@dataclass(frozen=True)
class Exporting:
    """What the settings of another program depend on.

    `prompts`, `held_out`: how many there are. `longest`: the tokens of the longest prompt. `chat`: the prompts are
    conversations. `sft`: a hub id, or None if the model is in the folder. `reward_model`: the reward is a model in the
    folder, not a function. `float32`: the run's base was in float32. `adds_bos`: the tokenizer starts a text with its
    start token.
    """

    config: PPOConfig
    prompts: int
    held_out: int
    longest: int
    chat: bool
    sft: str | None
    reward_model: bool
    float32: bool
    adds_bos: bool

    @property
    def base(self) -> object:
        """Where the SFT model is."""
        return InFolder("sft") if self.sft is None else self.sft

    @property
    def prompts_per_step(self) -> int:
        """Prompts that a step samples from."""
        return self.config.batch_size // self.config.responses_per_prompt

    def steps_of_a_round(self, rounded: Callable[[float], int]) -> int:
        """Steps in which all prompts are read once; the last one is left out or smaller, as `rounded` says."""
        return max(1, rounded(self.prompts / self.prompts_per_step))

    @property
    def longest_row(self) -> int:
        """Tokens of the longest prompt with the longest response."""
        return self.longest + self.config.max_new_tokens

    @property
    def lora_alpha(self) -> int:
        """The scale of adapters; both programs take whole numbers only."""
        return round(self.config.lora_alpha)

    @property
    def lora_targets(self) -> str | list[str]:
        """The modules that get an adapter, by name, or `ALL_LINEAR`."""
        targets = self.config.lora_targets
        return targets if targets == ALL_LINEAR else [name.strip() for name in targets.split(",")]

    @property
    def has_critic(self) -> bool:
        """Whether the estimator needs a value model."""
        return self.config.advantage_estimator == "gae"


WITHOUT: Mapping[str, tuple[object, str]] = {  # what neither program has → its value without effect, what is missing
    "adaptive_kl_target": (0.0, "adapts kl_coef to the KL per token, not per response, so it stays fixed"),
    "kl_limit": (0.0, "does not stop at a KL"),
    "lam_length_scale": (0.0, "has no λ that depends on the length; lam is used"),
    "max_staleness": (0, "samples ahead in its asynchronous trainer only, which the script does not start"),
    "min_new_tokens": (0, "has no shortest response"),
    "monitor": (None, "has no monitor"),
    "quantise_base": (
        "none",
        "holds the base unquantised; the models in the folder have its weights as they were rounded",
    ),
    "reward_normalise": (False, "does not normalise rewards over the batch"),
    "stop_metric": (None, "does not stop early"),
    "stop_strings": (None, "does not end responses at a text"),
    "target_kl": (0.0, "does not skip updates once the policy has moved far"),
    "value_coef": (1.0, "has no coefficient of the value loss; its critic has an optimiser of its own"),
    "value_lam": (None, "has no λ of the value model's own; lam is used"),
    "whiten_rewards": (False, "does not scale rewards to variance 1"),
}
WITH_ANOTHER: Mapping[str, str] = {  # settings that only matter with another one
    "adaptive_kl_horizon": "adaptive_kl_target",
    "stop_min_delta": "stop_metric",
    "stop_mode": "stop_metric",
    "stop_patience": "stop_metric",
}


def map_alike(program: str, exporting: Exporting) -> list[Mapped]:
    """The settings that both programs lack, or that mean something else in both, in the same way."""
    config, gae = exporting.config, exporting.has_critic
    differs = {
        "value_target": (
            gae and config.value_target == "reward_to_go" and config.lam < 1,
            f"trains the critic on advantages + values (λ = {config.lam:g}), not on the discounted sum of rewards",
        ),
        "value_backbone": (
            gae and config.value_backbone == "shared",
            "has no critic on the policy's hidden states, only a model of its own",
        ),
        "whiten_advantages": (
            config.whiten_advantages is not None and config.whiten_advantages != gae,
            f"{'always' if gae else 'never'} whitens the advantages of this estimator",
        ),
        "old_logprobs": (
            config.old_logprobs == "sampled",
            "computes the old log-probabilities again, in its trainer (recomputed)",
        ),
        "dtype": (exporting.float32, "computes in bfloat16; the run computed in float32"),
        "lora_alpha": (
            config.lora_alpha != exporting.lora_alpha,
            f"takes a whole number: {exporting.lora_alpha}",
        ),
    }
    lacking = {name: (getattr(config, name) != neutral, words) for name, (neutral, words) in WITHOUT.items()}
    return [
        Mapped([name], remark=f"{program} {words}" if matters else "")
        for name, (matters, words) in {**lacking, **differs}.items()
    ]


def find_refusals(program: str, config: PPOConfig, estimators: Mapping[str, str], whole: int) -> list[str]:
    """A sentence for each setting of the run without which it would be another, and that the program cannot take.
    `estimators`: those that it has, by our name. `whole`: how much it divides into mini-batches."""
    known = {
        "advantage_estimator": list(estimators),
        "policy_loss": ["clip"],
        "value_loss": ["clipped"],
        "optimiser": ["adamw"],
        "lr_schedule": ["linear", "cubic", "inverse", "cosine", "constant"],
    }
    found = [
        f"{name} is {getattr(config, name)}, which {program} does not have; it has {', '.join(values)}"
        for name, values in known.items()
        if getattr(config, name) not in values
    ]
    if whole % config.mini_batches:
        found.append(
            f"mini_batches is {config.mini_batches}, but {program} would have to divide {whole} into them; only a run "
            "with mini-batches of equal size can go there"
        )
    return found

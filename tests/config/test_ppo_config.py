import subprocess
import sys

import pytest

from ppo_lm.config import PPOConfig
from ppo_lm.errors import ConfigError

pytestmark = pytest.mark.fast


def test_the_fixed_defaults():
    fixed = dict(
        model_name="Qwen/Qwen3-0.6B-Base",
        lora_r=16,
        lora_alpha=32,
        lora_dropout=0.1,
        learning_rate=1e-5,
        value_learning_rate=1e-4,
        batch_size=32,
        max_new_tokens=10,
        gamma=0.99,
        lam=0.95,
        kl_coef=0.1,
        clip_epsilon=0.2,
        temperature=1.0,
        top_k=50,
        top_p=0.95,
    )
    config = PPOConfig()
    assert {name: getattr(config, name) for name in fixed} == fixed


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (dict(batch_size=0), "batch_size is 0; it must be at least 1"),
        (dict(batch_size="32"), "batch_size is '32'; it must be a whole number"),
        (dict(steps=True), "steps is True; it must be a whole number"),
        (dict(steps=2.0), "steps is 2.0; it must be a whole number"),
        (dict(gamma=float("nan")), "gamma is nan; it must be a finite number"),
        (dict(gamma=float("inf")), "gamma is inf; it must be a finite number"),
        (dict(fast=1), "fast is 1; it must be true or false"),
        (dict(prompts=3), "prompts is 3; it must be text"),
        (dict(temperature=None), "temperature is None; it must be a finite number"),
        (dict(reward=[3]), "reward is [3]; it must be text or a list of texts"),
        (dict(reward_weights=[1, "a"]), "reward_weights is [1, 'a']; it must be a list of finite numbers"),
        (dict(lam=1.2), "lam is 1.2; it must be between 0 and 1"),
        (dict(value_lam=2.0, value_target="returns"), "value_lam is 2.0; it must be between 0 and 1"),
        (dict(lora_dropout=1.0), "lora_dropout is 1.0; it must be at least 0 and below 1"),
        (dict(top_p=0.0), "top_p is 0.0; it must be above 0 and at most 1"),
        (dict(dual_clip=0.5), "dual_clip is 0.5; it must be 0 (off) or above 1"),
        (dict(temperature=0), "temperature is 0; it must be above 0"),
        (dict(kl_coef=-0.1), "kl_coef is -0.1; it must be 0 or more"),
        (dict(model_name=" "), "model_name is ' '; it must not be empty"),
        (dict(kl_estimator="k4"), "kl_estimator is 'k4'; it must be one of k1, k2, k3"),
        (dict(kl_estimator=["k1"]), "kl_estimator is ['k1']; it must be one of k1, k2, k3"),
        (dict(stop_strings="a"), "stop_strings is 'a'; it must be a list of texts"),
        (dict(stop_strings=["a", ""]), "stop_strings is ['a', '']; it must have no empty text"),
    ],
)
def test_a_wrong_value_is_reported_in_one_sentence(settings, problem):
    with pytest.raises(ConfigError) as caught:
        PPOConfig(**settings)
    assert caught.value.problems == [problem]


@pytest.mark.parametrize(
    "settings",
    [
        dict(value_lam=None),
        dict(value_lam=1, value_target="returns"),
        dict(reward=["a", "b"], reward_weights=[1, 0.5]),
        dict(reward="a"),
        dict(dual_clip=0),
        dict(dual_clip=3),
        dict(top_p=1, top_k=0),
        dict(whiten_advantages=False),
        dict(output_dir=None),
        dict(min_new_tokens=10, max_new_tokens=10, stop_strings=[" ", "\n\n"]),
    ],
)
def test_values_on_the_bounds_are_taken(settings):
    config = PPOConfig(**settings)
    assert {name: getattr(config, name) for name in settings} == settings


def test_all_problems_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        PPOConfig(batch_size="32", top_p=1.5, clip_epsilon=-1, batchsize=3, colour="red")
    assert str(caught.value).startswith("PPOConfig: 5 problems:\n")
    assert sorted(caught.value.problems) == [
        "batch_size is '32'; it must be a whole number",
        "clip_epsilon is -1; it must be above 0 and at most 1",
        "there is no field 'batchsize'; did you mean 'batch_size'?",
        "there is no field 'colour'; `--help` lists them",
        "top_p is 1.5; it must be above 0 and at most 1",
    ]


@pytest.mark.parametrize(
    ("settings", "problems"),
    [
        (dict(batch_size=4, mini_batches=8), ["mini_batches is 8 but batch_size is 4; a mini-batch needs"]),
        (dict(batch_size=4, responses_per_prompt=3), ["batch_size is 4 but responses_per_prompt is 3"]),
        (dict(top_k=0), ["top_p is 0.95 but top_k is 0"]),
        (dict(min_new_tokens=11), ["min_new_tokens is 11 but max_new_tokens is 10"]),
        (dict(eval_every=5, eval_prompts=0), ["eval_every is 5 but eval_prompts is 0"]),
        (dict(reward=["a", "b"], reward_weights=[1.0]), ["reward_weights has 1 numbers for 2 rewards"]),
        (dict(top_k=0, kl_in="loss", kl_coef=0.0), ["top_p is 0.95", "kl_in is loss but kl_coef is 0"]),
    ],
)
def test_values_that_clash_are_named_together(settings, problems):
    with pytest.raises(ConfigError) as caught:
        PPOConfig(**settings)
    assert len(caught.value.problems) == len(problems)
    assert all(problem in found for problem, found in zip(problems, caught.value.problems))


def test_importing_the_config_imports_no_torch():
    code = "import sys; from ppo_lm import PPOConfig; PPOConfig(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

import subprocess
import sys

import pytest

from ppo_lm.config import PPOConfig
from ppo_lm.errors import ConfigError


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


def test_all_problems_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        PPOConfig(batch_size=0, top_p=1.5, clip_epsilon=-1)
    message = str(caught.value)
    assert "3 problems" in message
    assert "batch_size is 0; it must be at least 1" in message
    assert "top_p is 1.5; it must be above 0 and at most 1" in message
    assert "clip_epsilon is -1; it must be above 0" in message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(batch_size="32"), "batch_size is '32'; it must be a whole number"),
        (dict(steps=True), "steps is True; it must be a whole number"),
        (dict(gamma=float("nan")), "gamma is nan; it must be a finite number"),
        (dict(lam=1.2), "lam is 1.2; it must be between 0 and 1"),
        (dict(lr_schedule="step"), "lr_schedule is 'step'; it must be one of linear, cubic, inverse, cosine, constant"),
        (dict(batch_size=4, mini_batches=8), "mini_batches is 8 but batch_size is 4"),
        (dict(top_k=0), "top_p is 0.95 but top_k is 0"),
        (dict(eval_every=5, eval_prompts=0), "eval_every is 5 but eval_prompts is 0"),
        (dict(model_name=" "), "model_name is ' '; it must be not empty"),
        (dict(temperature=0), "temperature is 0; it must be above 0"),
        (dict(kl_coef=-0.1), "kl_coef is -0.1; it must be 0 or more"),
    ],
)
def test_each_problem_is_a_clear_sentence(settings, message):
    with pytest.raises(ConfigError) as caught:
        PPOConfig(**settings)
    assert message in str(caught.value)


def test_unknown_fields_are_named_with_the_nearest_one():
    with pytest.raises(ConfigError) as caught:
        PPOConfig(batchsize=3, colour="red")
    assert "2 problems" in str(caught.value)
    assert "there is no field 'batchsize'; did you mean 'batch_size'?" in str(caught.value)
    assert "there is no field 'colour'" in str(caught.value)


def test_a_wrong_type_hides_no_other_problem():
    with pytest.raises(ConfigError) as caught:
        PPOConfig(batch_size="32", top_p=1.5)
    assert len(caught.value.problems) == 2


def test_importing_the_config_imports_no_torch():
    code = "import sys; from ppo_lm import PPOConfig; PPOConfig(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

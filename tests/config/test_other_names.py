import pytest

import ppo_lm.config
from ppo_lm.cli.commands import COMMANDS
from ppo_lm.config import EvaluateConfig, PPOConfig, RewardConfig, SFTConfig
from ppo_lm.config.fields import fields_of
from ppo_lm.config.other_names import OTHER_NAMES, did_you_mean
from ppo_lm.errors import ConfigError

pytestmark = pytest.mark.fast

CONFIGS = [getattr(ppo_lm.config, name) for name in ppo_lm.config.__all__]

# What a command that lacks the setting on the left should suggest
EXPECTED = {
    PPOConfig: {
        "lr": "learning_rate",
        "learning-rate": "learning_rate",
        "batch-size": "batch_size",
        "bs": "batch_size",
        "epochs": "ppo_epochs",
        "max_steps": "steps",
        "model": "model_name",
        "kl": "kl_coef",
        "beta": "kl_coef",
        "output-dir": "output_dir",
        "Output_Dir": "output_dir",
        "held_out": "eval_prompts",
        "dataset": "prompts",
        "stop": "stop_strings",
        "min_tokens": "min_new_tokens",
        # TRL's PPOConfig
        "per_device_train_batch_size": "batch_size",
        "num_ppo_epochs": "ppo_epochs",
        "num_mini_batches": "mini_batches",
        "cliprange": "clip_epsilon",
        "cliprange_value": "value_clip",
        "vf_coef": "value_coef",
        "response_length": "max_new_tokens",
        "stop_token": "stop_strings",
        "missing_eos_penalty": "missing_eos_score",
        "total_episodes": "steps",
        "sft_model_path": "model_name",
        "reward_model_path": "reward",
        "local_rollout_forward_batch_size": "rollout_slots",
    },
    SFTConfig: {
        "lr": "learning_rate",
        "num_train_epochs": "epochs",
        "steps": "max_steps",
        "max_seq_length": "max_tokens",
        "dataset": "demonstrations",
        "eval_prompts": "held_out",
    },
    RewardConfig: {"dataset": "preferences", "max_length": "max_tokens"},
    EvaluateConfig: {"model": "models", "model_name": "models", "reward_model": "judge"},
}


@pytest.mark.parametrize(
    ("config", "name", "meant"),
    [(config, name, meant) for config, names in EXPECTED.items() for name, meant in names.items()],
)
def test_a_setting_under_another_name_is_suggested_under_ours(config, name, meant):
    with pytest.raises(ConfigError) as caught:
        config(**{name: 1})
    assert str(caught.value) == f"{config.__name__}: there is no field {name!r}; did you mean {meant!r}?"


def test_every_other_name_leads_to_a_setting_or_a_command():
    ours = {name for config in CONFIGS for name in fields_of(config)} | set(COMMANDS) | {"resume", "overwrite"}
    for name, meant in OTHER_NAMES.items():
        assert set(meant) <= ours and name not in meant, name
        assert name == name.lower() and "-" not in name


def test_a_close_name_comes_after_an_exact_one_and_a_strange_one_is_not_guessed():
    known = ["learning_rate", "steps", "lora_r"]
    assert did_you_mean("lerning-rate", known, "--") == "; did you mean '--learning_rate'?"
    assert did_you_mean("lr", ["lora_r"]) == "; `--help` lists them"
    assert did_you_mean("colour", known) == "; `--help` lists them"

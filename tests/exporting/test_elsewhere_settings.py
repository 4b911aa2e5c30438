"""Settings in the units and words of verl and OpenRLHF, and the script that gives them to their command."""

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from ppo_lm import PPOConfig
from ppo_lm.config.fields import fields_of
from ppo_lm.exporting.elsewhere import PROGRAMS
from ppo_lm.exporting.elsewhere.mapping import IN_THE_FILES, OUR_OWN, WITH_ANOTHER, Exporting, InFolder, map_alike
from ppo_lm.exporting.elsewhere.script import write_script

pytestmark = pytest.mark.fast
ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
CORRECTION = "algorithm.rollout_correction"
PLAIN = Exporting(
    PPOConfig(),
    prompts=100,
    held_out=10,
    longest=20,
    chat=False,
    sft=None,
    reward_model=False,
    float32=False,
    adds_bos=False,
)
NEUTRAL = dict(
    top_k=0, top_p=1.0, value_target="returns", old_logprobs="recomputed", lr_schedule="cosine", lora_r=0, steps=2
)


def mapped(program, given=PLAIN, **settings):
    """(options, remarks) for these settings."""
    exporting = replace(given, config=replace(given.config, **settings))
    found = [*PROGRAMS[program].map_settings(exporting), *map_alike(PROGRAMS[program].name, exporting)]
    options = {name: value for each in found for name, value in each.options.items()}
    assert len(options) == sum(len(each.options) for each in found), "an option is set twice"
    return options, [each.remark for each in found if each.remark]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_setting_has_a_place_there_or_a_reason_for_none(program):
    found = [*PROGRAMS[program].map_settings(PLAIN), *map_alike(PROGRAMS[program].name, PLAIN)]
    covered = {name for each in found for name in each.settings} | {*OUR_OWN, *IN_THE_FILES, *WITH_ANOTHER}
    assert covered | {"policy_loss", "value_loss"} == set(fields_of(PPOConfig))  # which are refused if they are others


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_run_that_they_can_repeat_has_nothing_to_be_said(program):
    assert mapped(program, **NEUTRAL)[1] == []


@pytest.mark.parametrize(
    ("settings", "verl", "openrlhf"),
    [
        (
            dict(batch_size=24, responses_per_prompt=4, mini_batches=3),
            {"data.train_batch_size": 6, f"{ROLLOUT}.n": 4, f"{ACTOR}.ppo_mini_batch_size": 2},  # prompts
            {"rollout.batch_size": 6, "rollout.n_samples_per_prompt": 4, "train.batch_size": 8},  # responses
        ),
        (
            dict(kl_coef=0.3, kl_estimator="k3"),
            {
                "algorithm.use_kl_in_reward": True,
                "algorithm.kl_penalty": "low_var_kl",
                "algorithm.kl_ctrl.kl_coef": 0.3,
            },
            {"algo.kl.init_coef": 0.3, "algo.kl.estimator": "k3"},
        ),
        (
            dict(kl_coef=0.3, kl_estimator="k1", kl_in="loss"),
            {f"{ACTOR}.use_kl_loss": True, f"{ACTOR}.kl_loss_coef": 0.3, f"{ACTOR}.kl_loss_type": "k1+"},
            {"algo.kl.use_loss": True, "algo.kl.unbiased_gradient": True, "algo.kl.init_coef": 0.3},
        ),
        (dict(kl_coef=0.0), {"algorithm.use_kl_in_reward": False}, {"algo.kl.init_coef": 0.0}),
        (
            dict(clip_epsilon=0.1, clip_epsilon_high=0.3),
            {f"{ACTOR}.clip_ratio_low": 0.1, f"{ACTOR}.clip_ratio_high": 0.3},
            {"actor.eps_clip_low_high": [0.1, 0.3]},
        ),
        (
            dict(dual_clip=3.0, value_clip=0.0),
            {f"{ACTOR}.clip_ratio_c": 3.0, "critic.cliprange_value": 1e9},
            {"actor.dual_clip": 3.0, "critic.value_clip": 1e9},
        ),
        (  # verl trains the policy from its step number critic_warmup on; OpenRLHF, from 0, above freezing_steps
            dict(value_warmup_steps=5),
            {"trainer.critic_warmup": 6},
            {"critic.freezing_steps": 4},
        ),
        (  # a round of 100 prompts is three steps of 32 and, in OpenRLHF, one of 4
            dict(steps=7),
            {"trainer.total_training_steps": 7, "trainer.total_epochs": 3},
            {"train.num_episodes": 2, "data.max_samples": None},
        ),
        (dict(steps=2), {"trainer.total_epochs": 1}, {"train.num_episodes": 1, "data.max_samples": 64}),
        (
            dict(old_logprobs="recomputed", importance_cap=2.0),
            {
                "algorithm.rollout_correction.rollout_is": "token",
                "algorithm.rollout_correction.rollout_is_threshold": 2.0,
            },
            {"algo.advantage.is_correction_mode": "clip", "algo.advantage.is_correction_threshold": [0.0, 2.0]},
        ),
        (
            dict(old_logprobs="recomputed", importance_cap=5.0, importance_mode="mask", importance_floor=0.5),
            {"algorithm.rollout_correction.rollout_is_threshold": "0.5_5.0"},
            {"algo.advantage.is_correction_mode": "mask", "algo.advantage.is_correction_threshold": [0.5, 5.0]},
        ),
        (  # verl's lower bound has to be above 0
            dict(old_logprobs="recomputed", importance_cap=5.0, importance_mode="mask"),
            {"algorithm.rollout_correction.rollout_is_threshold": "1e-09_5.0"},
            {"algo.advantage.is_correction_mode": "mask", "algo.advantage.is_correction_threshold": [0.0, 5.0]},
        ),
        (
            dict(lora_r=8, lora_targets="q_proj, v_proj"),
            {"actor_rollout_ref.model.target_modules": ["q_proj", "v_proj"], f"{ROLLOUT}.load_format": "safetensors"},
            {"ds.lora.rank": 8, "ds.lora.target_modules": ["q_proj", "v_proj", "score"]},
        ),
        (
            dict(max_new_tokens=30),
            {"data.max_prompt_length": 20, "data.max_response_length": 30},
            {"data.max_len": 50, "rollout.max_new_tokens": 30},
        ),
        (
            dict(advantage_estimator="group", responses_per_prompt=4),
            {"algorithm.adv_estimator": "grpo"},
            {"algo.advantage.estimator": "group_norm"},
        ),
        (dict(missing_eos_score=-1.0), {}, {"reward.stop_properly_penalty_coef": -1.0}),
        (
            dict(loss_aggregation="sequence_mean"),
            {f"{ACTOR}.loss_agg_mode": "seq-mean-token-mean", "critic.loss_agg_mode": "token-mean"},
            {"actor.loss_agg_mode": "seq-mean-token-mean"},
        ),
    ],
)
def test_a_setting_in_their_words_and_units(settings, verl, openrlhf):
    for program, expected in (("verl", verl), ("openrlhf", openrlhf)):
        found, _ = mapped(program, **settings)
        assert {name: found.get(name) for name in expected} == expected, program


@pytest.mark.parametrize(
    ("settings", "program", "said"),
    [
        (dict(top_k=50), "verl", "over the whole vocabulary"),
        (dict(top_k=50), "openrlhf", "OpenRLHF has no top_k"),
        (dict(lr_schedule="linear"), "verl", "verl has no linear schedule; cosine also ends at 0"),
        (dict(lr_schedule="cubic"), "openrlhf", "OpenRLHF has no cubic schedule; linear also ends at 0"),
        (dict(value_target="reward_to_go"), "verl", "advantages + values (λ = 0.95)"),
        (dict(adaptive_kl_target=6.0), "verl", "adapts kl_coef to the KL per token, not per response"),
        (dict(stop_strings=["\n"]), "openrlhf", "does not end responses at a text"),
        (dict(missing_eos_score=1.0), "openrlhf", "cannot give a positive score"),
        (dict(missing_eos_score=-1.0), "verl", "scores a response that does not end like any other"),
        (dict(lora_r=4, lora_alpha=6.5), "openrlhf", "takes a whole number: 6"),
        (dict(lora_r=4), "verl", "cannot put an adapter on a critic"),
        (dict(kl_in="loss"), "verl", "does not weight its KL loss"),
        (dict(whiten_advantages=False), "verl", "always whitens the advantages"),
        (dict(steps=7), "openrlhf", "makes 8 steps rather than 7"),
    ],
)
def test_what_differs_is_said(settings, program, said):
    remarks = mapped(program, **{**NEUTRAL, **settings})[1]
    assert [said in remark for remark in remarks].count(True) == 1, remarks


def test_a_text_is_not_put_into_a_chat_template():
    template = "actor_rollout_ref.model.custom_chat_template"
    assert template not in mapped("verl", replace(PLAIN, chat=True))[0]
    assert mapped("verl", replace(PLAIN, adds_bos=True))[0][template].startswith("{{ bos_token }}{% for")
    assert "data.apply_chat_template" in mapped("openrlhf", replace(PLAIN, chat=True))[0]
    assert "data.apply_chat_template" not in mapped("openrlhf")[0]


def test_a_model_on_the_hub_is_named_and_not_copied():
    on_hub = replace(PLAIN, sft="Qwen/Qwen3-0.6B-Base")
    assert mapped("verl", on_hub)[0]["actor_rollout_ref.model.path"] == "Qwen/Qwen3-0.6B-Base"
    assert mapped("openrlhf")[0]["actor.model_name_or_path"] == InFolder("sft")


def started(program, folder, given=PLAIN, *more, **settings):
    """The words that `python` gets from the script in `folder`."""
    folder.mkdir(exist_ok=True)
    exporting = replace(given, config=replace(given.config, **settings))
    options = PROGRAMS[program].map_settings(exporting)
    (folder / "train.sh").write_text(write_script(PROGRAMS[program], options))
    (folder / "bin").mkdir(exist_ok=True)
    python = folder / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    python.chmod(0o755)
    environment = {"PATH": f"{python.parent}:{os.environ['PATH']}", "GPUS": "3"}
    done = subprocess.run(["bash", str(folder / "train.sh"), *more], env=environment, capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


def test_the_script_names_paths_wherever_the_folder_is(tmp_path):
    folder = tmp_path / "it's a $HOME"
    words = started("openrlhf", folder, PLAIN, "--train.seed", "5")
    assert words[:2] == ["-m", "openrlhf.cli.train_ppo_ray"] and words[-2:] == ["--train.seed", "5"]
    assert words[words.index("--reward.remote_url") + 1] == f"{folder}/reward.py"
    assert words[words.index("--vllm.num_engines") + 1] == "3"
    assert json.loads(words[words.index("--actor.eps_clip_low_high") + 1]) == 0.2
    words = started("verl", folder)
    assert "trainer.n_gpus_per_node=3" in words and "trainer.logger=[console]" in words


def test_the_names_on_the_page_are_those_that_the_scripts_give():
    page = (Path(__file__).parents[2] / "docs" / "outgrow.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in page.partition("## What each setting is called")[2].splitlines()]
    table = [[re.findall(r"`([\w.]+)", cell) for cell in row] for row in rows[4:] if len(row) == 3]
    everything = dict(dual_clip=3.0, entropy_coef=0.1, old_logprobs="recomputed", importance_cap=2.0)
    everything |= dict(value_warmup_steps=1, missing_eos_score=-1.0, lora_r=4, lora_targets="q_proj", steps=2)
    for column, program in ((1, "verl"), (2, "openrlhf")):
        known = mapped(program, **everything)[0].keys() | mapped(program, **everything, kl_in="loss")[0].keys()
        written = {name for row in table for name in row[column] if "." in name} - {"reward.py"}
        assert len(written) > 30 and written <= known
    assert {name for row in table for name in row[0]} <= {*fields_of(PPOConfig), "kl_in"}

"""`quantise_base`: what it cannot be combined with, and what it needs."""

import importlib.util
import re

import pytest

from ppo_lm.base_setup import load_base
from ppo_lm.cli.main import main
from ppo_lm.config import GenerateConfig, PlanConfig, PPOConfig, RewardConfig, SFTConfig, ValueConfig
from ppo_lm.config.other_names import did_you_mean
from ppo_lm.errors import ConfigError, UserError
from ppo_lm.generation import run_generation
from ppo_lm.sft import run_sft
from tests.quantised.conftest import add_random_adapter

pytestmark = pytest.mark.fast

MISSING = "a base in nf4 needs the package bitsandbytes; install it with `pip install 'ppo-lm[quantised]'`"


@pytest.fixture
def without_bitsandbytes(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))


@pytest.mark.parametrize("config", [PPOConfig, SFTConfig, RewardConfig, ValueConfig])
def test_all_weights_and_sharded_weights_are_refused_at_once(config):
    with pytest.raises(ConfigError) as caught:
        config(quantise_base="nf4", lora_r=0, shard_base=True)
    message = str(caught.value)
    assert "quantise_base is nf4 but lora_r is 0, which trains all weights" in message
    assert "quantise_base is nf4 and shard_base is set; a quantised base cannot be sharded" in message


@pytest.mark.parametrize("engine", ["slots", "graphs"])
def test_engines_that_copy_all_weights_are_refused(engine):
    with pytest.raises(ConfigError, match=f"engine is {engine}, which would hold all weights unquantised"):
        PPOConfig(quantise_base="int8", engine=engine)


def test_a_plan_of_it_is_refused():
    with pytest.raises(ConfigError, match="quantise_base is nf4, which the cost model does not know"):
        PlanConfig(quantise_base="nf4")


@pytest.mark.parametrize("name", ["load_in_4bit", "load-in-8bit", "quantization_config"])
def test_the_names_of_others_lead_to_it(name):
    assert did_you_mean(name, ["lora_r", "quantise_base"]) == "; did you mean 'quantise_base'?"


def test_without_the_extra_all_problems_are_told_before_a_model_loads(without_bitsandbytes, tmp_path):
    with pytest.raises(UserError) as caught:
        run_sft(SFTConfig(model_name="no/such-model", quantise_base="nf4", output_dir=str(tmp_path / "run")))
    assert MISSING in str(caught.value) and "demonstrations" in str(caught.value)
    assert "cannot be reached" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        run_generation(GenerateConfig(models=["embedded", "./nowhere"], quantise_base="nf4", prompt=["hi"]))
    assert MISSING in str(caught.value) and "no such file or folder" in str(caught.value)
    with pytest.raises(UserError, match=re.escape(MISSING)):
        load_base("no/such-model", quantisation="nf4")


def test_8_bits_need_no_extra(without_bitsandbytes, folder):
    assert load_base(folder, quantisation="int8").quantisation == "int8"


def test_a_wrong_value_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["sft", "--quantise_base", "4bit"])
    assert "quantise_base is '4bit'; it must be one of none, nf4, int8" in capsys.readouterr().err


def test_an_adapter_of_such_a_base_needs_the_extra_too(without_bitsandbytes, folder, tmp_path, monkeypatch):
    base = load_base(folder, quantisation="int8")
    base.quantisation = "nf4"  # as its stamp will say
    add_random_adapter(base, "policy")
    base.save_adapter("policy", tmp_path / "adapter")
    config = SFTConfig(model_name=str(tmp_path / "adapter"), output_dir=str(tmp_path / "run"))
    with pytest.raises(UserError) as caught:
        run_sft(config)
    assert MISSING in str(caught.value)

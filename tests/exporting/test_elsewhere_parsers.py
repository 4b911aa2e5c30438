"""The scripts are read by the programs' own parsers: Hydra with verl's ppo_trainer.yaml, and OpenRLHF's argparse.

Neither package is installed with ours: their training needs GPUs, and verl brings a package called `tests`. A folder is
enough, without their other dependencies:

    pip install --target FOLDER --no-deps verl==0.9.1 openrlhf==0.11.2
    pip install --target FOLDER hydra-core pyyaml
    ELSEWHERE=FOLDER pytest -m slow tests/exporting/test_elsewhere_parsers.py
"""

import functools
import json
import operator
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from ppo_lm.exporting.elsewhere.mapping import InFolder
from tests.exporting.test_elsewhere_settings import PLAIN, mapped, started

pytestmark = pytest.mark.slow
RUNS = {
    "defaults": dict(),
    "chat, reward model, KL in the loss": dict(kl_in="loss", kl_estimator="k3", lora_targets="q_proj,v_proj"),
    "all weights, groups": dict(lora_r=0, advantage_estimator="rloo", responses_per_prompt=4, mini_batches=2),
    "double-sided importance weights": dict(
        old_logprobs="recomputed", importance_cap=5.0, importance_mode="mask", importance_floor=0.5
    ),
    "everything else": dict(
        dual_clip=3.0,
        value_clip=0.0,
        entropy_coef=0.01,
        old_logprobs="recomputed",
        importance_cap=2.0,
        value_warmup_steps=3,
        missing_eos_score=-1.0,
        gradient_checkpointing=True,
        micro_batch_tokens=512,
        recorders=["wandb", "tensorboard"],
        lr_schedule="constant",
    ),
}
COMPOSE = """
import importlib.util, json, sys
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

place = importlib.util.find_spec("verl").submodule_search_locations[0]
with initialize_config_dir(f"{place}/trainer/config", version_base=None):
    config = compose("ppo_trainer", overrides=sys.argv[1:])
OmegaConf.resolve(config)
print("OPTIONS", json.dumps(OmegaConf.to_container(config)))
"""
PARSE = """
import importlib.util, json, runpy, sys, types

class Anything(types.ModuleType):
    __path__ = []
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *given, **named: None

for name in ("ray.util.placement_group", "ray.util", "openrlhf.trainer.ray.launcher", "openrlhf.trainer.ray.ppo_actor",
             "openrlhf.trainer.ray.ppo_critic", "openrlhf.trainer.ray"):
    sys.modules[name] = Anything(name)
utils = Anything("openrlhf.utils")
utils.__path__ = [f"{importlib.util.find_spec('openrlhf').submodule_search_locations[0]}/utils"]
sys.modules["openrlhf.utils"] = utils

class Ray(Anything):
    def is_initialized(self):  # the first thing that training asks: the options have been read and checked
        def plain(value):
            return {name: plain(each) for name, each in vars(value).items()} if hasattr(value, "__dict__") else value
        print("OPTIONS", json.dumps(plain(sys._getframe(1).f_locals["args"])))
        raise SystemExit(0)

sys.modules["ray"] = Ray("ray")
runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__")
"""


def run_there(code, *arguments):
    """What a process prints that finds the packages in the folder; and then, as JSON, their values of the options."""
    place = os.environ.get("ELSEWHERE")
    if place is None:
        pytest.skip("ELSEWHERE is not set; see the top of this file")
    environment = {**os.environ, "PYTHONPATH": place}
    words = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("OPTIONS ")[2])


def check(program, name, folder, code):
    """Every option has the value there that it was given. Returns all values there."""
    words = started(program, folder, given(name), **RUNS[name])
    read = run_there(code, *words[2:])
    options, _ = mapped(program, given(name), **RUNS[name])
    for option, value in options.items():
        found = functools.reduce(operator.getitem, option.split("."), read)
        expected = str(folder / value.path) if isinstance(value, InFolder) else value
        assert found == ([expected] if option == "reward.remote_url" else expected), option
    return read


def given(name):
    """What the settings of a run depend on, of both kinds."""
    return replace(PLAIN, chat=True, reward_model=True) if name.startswith("chat") else PLAIN


@pytest.mark.parametrize("name", RUNS)
def test_verl_knows_every_option(name, tmp_path):
    """Hydra refuses overrides of what is not in verl's own configuration."""
    read = check("verl", name, tmp_path / "it's here", COMPOSE)
    actor, critic = read["actor_rollout_ref"]["actor"], read["critic"]
    for shared in ("ppo_mini_batch_size", "ppo_epochs", "use_dynamic_bsz"):
        assert critic[shared] == actor[shared], shared


@pytest.mark.parametrize("name", RUNS)
def test_openrlhf_takes_every_option(name, tmp_path):
    """Its imports of Ray, vLLM and DeepSpeed are replaced by empty modules."""
    check("openrlhf", name, tmp_path / "it's here", PARSE)

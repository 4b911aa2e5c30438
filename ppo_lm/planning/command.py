"""The command that runs a plan."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ppo_lm.config import PlanConfig, PPOConfig
from ppo_lm.planning.plan import Plan

ENDPOINT = "FIRST_HOST:29500"
SAMPLER = "http://SAMPLER:8000"
PLACEHOLDER = "PROMPTS.jsonl"
OWN = {field.name for field in dataclasses.fields(PlanConfig)} - {field.name for field in dataclasses.fields(PPOConfig)}


def command_for(plan: Plan, files: Sequence[str], options: Mapping[str, Any]) -> str:
    """The shell command for `ppo-lm train` in the plan's layout. `files` and `options`: what was given with `--config`
    and as settings; those that only a plan has are left out. Names in capitals are for the user to fill in."""
    given = [word for file in files for word in ("--config", file)]
    for name, value in options.items():
        given += [] if name in OWN else [f"--{name}", written(value)]
    if plan.job.config.prompts is None:
        given += ["--prompts", PLACEHOLDER]
    words = [*_launcher(plan), "train", *given, *_settings(plan)]
    return " ".join(map(shlex.quote, words))


def written(value: Any) -> str:
    """A value as an option takes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _launcher(plan: Plan) -> list[str]:
    trainers, devices = plan.layout.trainers, plan.hardware.devices
    if trainers == 1:
        return ["ppo-lm"]
    if trainers <= devices:
        return ["torchrun", "--nproc-per-node", str(trainers), "-m", "ppo_lm"]
    hosts = -(-trainers // devices)
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", ENDPOINT]
    return ["torchrun", "--nnodes", str(hosts), *meeting, "--nproc-per-node", str(trainers // hosts), "-m", "ppo_lm"]


def _settings(plan: Plan) -> list[str]:
    """Of the layout, as far as the run does not have them already."""
    sharded = ["--shard_base", "true"] if plan.layout.sharded else []
    if not plan.layout.samplers or plan.job.named_servers:
        return sharded
    return [*sharded, "--engine", "vllm", "--engine_urls", SAMPLER]

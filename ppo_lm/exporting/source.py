"""The run to export: what it recorded, and which parts it has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ppo_lm.base_setup import read_adapter_base, read_quantisation
from ppo_lm.config.export_config import ADAPTER, GGUF, MERGED, REWARD, VALUE
from ppo_lm.errors import ConfigError, ModelError, UserError
from ppo_lm.fast.quantisation import NONE
from ppo_lm.models.adapter_check import CONFIG_FILE
from ppo_lm.models.base_stamp import read_stamp
from ppo_lm.reading import user_path
from ppo_lm.report import read_run_folder
from ppo_lm.run import RunModel, find_policy, find_reward, find_value, is_run_folder

STAGE_PARTS = {  # of the runs of each command
    "train": (ADAPTER, MERGED, VALUE),
    "sft": (ADAPTER, MERGED),
    "reward": (REWARD,),
    "value": (VALUE,),
}
FINDERS = {ADAPTER: find_policy, MERGED: find_policy, VALUE: find_value, REWARD: find_reward}
ALL_WEIGHTS = "it trained all weights (lora_r 0), so there is no adapter; export merged"
SHARED = (
    "its value model is a head on the policy's hidden states (value_backbone shared), which no other run can start "
    "from; train with value_backbone separate"
)
VALUE_OF_ALL_WEIGHTS = (
    "its value model is a whole network (lora_r 0), which no other run can start from; train with lora_r of at least 1"
)


class Source(NamedTuple):
    """A run. `record`: see `read_run_folder`. `models`: where each part that it has comes from. `missing`: why it does
    not have the others, one clause each."""

    folder: Path
    record: dict[str, Any]
    models: dict[str, RunModel]
    missing: dict[str, str]

    @property
    def stage(self) -> str:
        """The command of the run."""
        return self.record["stage"]

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting of the run, by name."""
        return {setting["name"]: setting["value"] for setting in self.record["settings"]}

    @property
    def adapted(self) -> Path | None:
        """The folder of an adapter among the parts; all are on the same base."""
        return next((self.models[part].folder for part in (ADAPTER, VALUE, REWARD) if part in self.models), None)

    @property
    def base(self) -> str:
        """The model that the run started from."""
        return self.settings["model_name"] if self.adapted is None else read_adapter_base(self.adapted)

    @property
    def dtype(self) -> torch.dtype:
        """That of the base's weights in the run, which the adapter's file names."""
        stamp = None if self.adapted is None else read_stamp(self.adapted)
        named = None if stamp is None else stamp.dtype
        return torch.bfloat16 if "bfloat16" in (named, self.settings["dtype"]) else torch.float32

    @property
    def quantisation(self) -> str:
        """How the base's weights were held in the run, which the adapter's file names."""
        return NONE if self.adapted is None else read_quantisation(self.adapted)


def read_source(run: str | None) -> Source:
    """The run in a folder. Raises `UserError`."""
    if run is None:
        raise ConfigError.of("run is not set; give the folder of a run: ppo-lm export RUN")
    folder = user_path(run, "run")
    if not folder.is_dir():
        raise ConfigError.of(f"run is {run!r}, but there is no such folder")
    if not is_run_folder(folder):
        raise ConfigError.of(f"run is {run!r}, which holds no run (no config.yaml, or a model beside it)")
    record = read_run_folder(folder)
    stage, settings = record["stage"], {setting["name"]: setting["value"] for setting in record["settings"]}
    models: dict[str, RunModel] = {}
    missing = {part: f"a run of ppo-lm {stage} has none" for part in (*FINDERS, GGUF) if part not in STAGE_PARTS[stage]}
    for part in STAGE_PARTS[stage]:
        try:
            models[part] = FINDERS[part](folder)
        except ModelError as error:
            missing[part] = (_why_no_value(settings) if part == VALUE and stage == "train" else None) or str(error)
    if ADAPTER in models and not (models[ADAPTER].folder / CONFIG_FILE).is_file():
        del models[ADAPTER]
        missing[ADAPTER] = ALL_WEIGHTS
    if MERGED in models:
        models[GGUF] = models[MERGED]
        del missing[GGUF]
    return Source(folder, record, models, missing)


def choose_parts(source: Source, named: list[str] | None) -> list[str]:
    """The parts to export, in order: those `named`, else all that the run has but gguf. Raises `UserError` if one is
    missing, or there is none."""
    if named:
        lacking = [f"parts names {part}, but {source.missing[part]}" for part in named if part not in source.models]
        if lacking:
            raise ConfigError(lacking)
        return list(dict.fromkeys(named))
    found = [part for part in source.models if part != GGUF]
    if not found:
        reasons = dict.fromkeys(source.missing[part] for part in STAGE_PARTS[source.stage])
        raise UserError(f"{source.folder} has nothing to export: {'; '.join(reasons)}")
    return found


def _why_no_value(settings: Mapping[str, Any]) -> str | None:
    if settings["value_backbone"] == "shared":
        return SHARED
    return VALUE_OF_ALL_WEIGHTS if settings["lora_r"] == 0 else None

"""An export to another program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ppo_lm.base_setup import load_base
from ppo_lm.config import PPOConfig
from ppo_lm.config.export_config import MERGED
from ppo_lm.data import DataReport, PromptSet, load_prompts
from ppo_lm.errors import ConfigError, Problems
from ppo_lm.exporting.content import Content
from ppo_lm.exporting.elsewhere.mapping import Exporting, find_refusals, map_alike
from ppo_lm.exporting.elsewhere.models import (
    CRITIC,
    POLICY,
    REWARD_MODEL,
    SFT,
    write_critic,
    write_policy,
    write_reward_model,
    write_sft,
)
from ppo_lm.exporting.elsewhere.openrlhf import OPENRLHF
from ppo_lm.exporting.elsewhere.program import Program
from ppo_lm.exporting.elsewhere.prompts import (
    Prompts,
    count,
    count_read_differently,
    plain_columns,
    rows_of,
    split_again,
    start_of_texts,
)
from ppo_lm.exporting.elsewhere.readme import write_readme
from ppo_lm.exporting.elsewhere.scoring import FILE, check_columns, find_scoring, write_scoring
from ppo_lm.exporting.elsewhere.script import SCRIPT, write_script
from ppo_lm.exporting.elsewhere.verl import VERL
from ppo_lm.exporting.header import is_on_hub
from ppo_lm.exporting.places import Places
from ppo_lm.exporting.source import Source
from ppo_lm.fast.quantisation import NONE
from ppo_lm.models import BaseModel
from ppo_lm.models.model_card import CARD
from ppo_lm.run.checkpoint import last_intact_checkpoint, read_state
from ppo_lm.saving import write_text

PROGRAMS: Mapping[str, Program] = {"verl": VERL, "openrlhf": OPENRLHF}
DATA = "data"


class Elsewhere(Content):
    """What a program needs to repeat a PPO run: settings, prompts, rewards and models. Raises `UserError` for a run
    that it cannot repeat."""

    def __init__(self, name: str, source: Source):
        self.program, self.source = PROGRAMS[name], source
        if source.stage != "train":
            raise ConfigError.of(
                f"to is {name}, but {source.folder} is a run of ppo-lm {source.stage}; give a run of ppo-lm train"
            )
        self.config = config = PPOConfig(**source.settings)
        newest = last_intact_checkpoint(source.folder)
        self.identity: dict[str, Any] = {} if newest is None else read_state(newest).get("identity", {})
        problems = Problems("ExportConfig")
        problems.attempt(self._check_settings)
        self.scoring = problems.attempt(find_scoring, self.program.name, config, self.identity.get("the rewards"))
        self.loaded: tuple[PromptSet, DataReport] = problems.attempt(self._load_prompts)
        problems.raise_all()
        self.sft = source.base if is_on_hub(source.base) and source.quantisation == NONE else None
        self.places = Places(None, list(self._files()))

    def decisions(self) -> list[str]:
        """Where the models are from, and what is not checked."""
        made = list(dict.fromkeys(model.description for model in self.source.models.values()))
        if not self.identity:
            made.append("the run has no checkpoint, so nothing shows whether its prompts or rewards have changed")
        return made

    def write(self, folder: Path) -> list[str]:
        """Models, prompts, rewards, start script and README.md. Returns a sentence for everything that differs."""
        program, config = self.program, self.config
        base = load_base(
            self.source.base,
            str(self.source.dtype).removeprefix("torch."),
            "cpu",
            seed=config.seed,
            fast=False,
            allow_special_tokens=config.allow_special_tokens,
            quantisation=self.source.quantisation,
        )
        prompts = split_again(*self.loaded, base, config, self.identity)
        check_columns(self.scoring, prompts.train, program.tells)
        notes = [*self._write_prompts(prompts, base, folder), *self._write_models(prompts, base, folder)]
        if self.scoring.model is None:
            ends = [str(base.tokenizer.convert_ids_to_tokens(token)) for token in base.eos_token_ids]
            write_scoring(self.scoring, config, program.name, program.reward_ending(ends), folder)
        exporting = self._exporting(prompts, base)
        mapped = [*program.map_settings(exporting), *map_alike(program.name, exporting)]
        remarks = [*(each.remark for each in mapped if each.remark), *notes]
        write_text(folder / SCRIPT, write_script(program, mapped))
        name = self.source.folder.resolve().name
        write_text(folder / CARD, write_readme(program, name, config, self._files(), mapped, remarks))
        return remarks

    def _check_settings(self) -> None:
        config, program = self.config, self.program
        divided = config.batch_size // (config.responses_per_prompt if program.counts_prompts else 1)
        found = find_refusals(program.name, config, program.estimators, divided)
        if found:
            raise ConfigError(found)

    def _load_prompts(self) -> tuple[PromptSet, DataReport]:
        if self.config.prompts is None:
            raise ConfigError.of(
                "the run's prompts were given in Python, so they cannot be read again; export a run that names them "
                "with --prompts"
            )
        return load_prompts(self.config.prompts, self.config)

    def _write_prompts(self, prompts: Prompts, base: BaseModel, folder: Path) -> list[str]:
        """Returns a note if the program reads some of them differently, or does not get a column."""
        program, notes = self.program, []
        (folder / DATA).mkdir()
        for part, file, split in zip(prompts[:2], program.files, ("train", "held_out"), strict=True):
            if len(part):
                program.write_prompts(rows_of(part, base.tokenizer), folder / file, split)
            different = count_read_differently(part, base.tokenizer)
            if different:
                notes.append(f"{file}: {program.name} reads {count(different, part)} as other tokens than the run did")
        left_out = sorted(prompts.train.columns.keys() - plain_columns(prompts.train).keys())
        if left_out:
            notes.append(f"columns that JSON cannot hold are left out of the data: {', '.join(left_out)}")
        return notes

    def _write_models(self, prompts: Prompts, base: BaseModel, folder: Path) -> list[str]:
        files, notes = self._files(), []
        if SFT in files:
            write_sft(base, folder)
        if POLICY in files:
            notes += write_policy(base, self.source, folder)
        if CRITIC in files:
            notes += write_critic(base, self.source, self.program, folder)
        if self.scoring.model is not None:
            notes += write_reward_model(base, self.scoring.model, prompts, self.program, folder)
        return notes

    def _exporting(self, prompts: Prompts, base: BaseModel) -> Exporting:
        return Exporting(
            self.config,
            prompts=len(prompts.train),
            held_out=len(prompts.held_out),
            longest=prompts.longest,
            chat=prompts.chat,
            sft=self.sft,
            reward_model=self.scoring.model is not None,
            float32=base.dtype == torch.float32,
            adds_bos=bool(start_of_texts(base.tokenizer)),
        )

    def _files(self) -> dict[str, str]:
        """What is written, and what it is."""
        scoring, files = self.scoring, {}
        if self.sft is None:
            files[SFT] = "the model that the run started from, and the reference of the KL penalty"
        if MERGED in self.source.models:
            files[POLICY] = "the policy that the run has trained"
        if self.config.advantage_estimator == "gae":
            files[CRITIC] = f"the value model, for transformers a {self.program.critic} classifier with one label"
        if scoring.model is not None:
            files[REWARD_MODEL] = "the reward model, for transformers a sequence classifier with one label"
        else:
            files[FILE] = "the run's rewards, which call ppo_lm"
        files[DATA] = "the prompts that the run trained on, and those that it held out"
        files[SCRIPT] = f"starts {self.program.name} with the settings of the run"
        return files

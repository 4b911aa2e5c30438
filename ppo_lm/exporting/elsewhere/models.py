"""The models of a run as another program loads them: policy, reference, critic and reward model."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import cast

from torch import nn

from ppo_lm.base_setup import load_adapter
from ppo_lm.config.export_config import ADAPTER, MERGED, VALUE
from ppo_lm.data.encoding import encode_pair
from ppo_lm.exporting.elsewhere.networks import write_with_head
from ppo_lm.exporting.elsewhere.program import Program
from ppo_lm.exporting.elsewhere.prompts import Prompts, Row, count
from ppo_lm.exporting.source import Source
from ppo_lm.models import BaseModel, PolicyModel, RewardModel
from ppo_lm.models.score_head import ScoreHead
from ppo_lm.run.save_models import save_merged

SFT, POLICY, CRITIC, REWARD_MODEL = "sft", "policy", "value", "reward"  # their folders
NO_VALUE = "the critic starts from V = 0"


def write_sft(base: BaseModel, folder: Path) -> None:
    """The model that the run started from, as a plain transformers model."""
    save_merged(PolicyModel(base, role=None), folder, SFT)


def write_policy(base: BaseModel, source: Source, folder: Path) -> list[str]:
    """What the run has trained, as a plain transformers model. Returns a note if rounding loses some of it."""
    if ADAPTER not in source.models:
        shutil.copytree(source.models[MERGED].folder, folder / POLICY)
        return []
    load_adapter(base, POLICY, source.models[ADAPTER].folder)
    lost = save_merged(PolicyModel(base, POLICY), folder, POLICY)
    return [f"{POLICY}: {lost}"] if lost else []


def write_critic(base: BaseModel, source: Source, program: Program, folder: Path) -> list[str]:
    """The run's value model, or if it has none of its own, the SFT model with V = 0. Returns notes."""
    head, role, notes = ScoreHead(base.hidden_size), None, []
    if VALUE in source.models:
        role = CRITIC
        load_adapter(base, role, source.models[VALUE].folder)
        head.load(source.models[VALUE].folder)
    else:
        nn.init.zeros_(head.linear.weight)
        notes = [f"{NO_VALUE}: {source.missing[VALUE]}"]
    left_out = write_with_head(base, role, head, program.critic, base.tokenizer, folder / CRITIC)
    return notes + _constant(left_out, f"{program.name}'s critic has no bias: its values are the run's minus")


def write_reward_model(base: BaseModel, model: Path, prompts: Prompts, program: Program, folder: Path) -> list[str]:
    """The reward model, its normalisation in the head. Returns notes."""
    trained, head = RewardModel.load(base, model, REWARD_MODEL), ScoreHead(base.hidden_size)
    head.start_from(trained.head, trained.mean, trained.std)
    tokenizer, notes = copy.deepcopy(base.tokenizer), []
    if program.reward_template is not None:
        own = cast("str", base.tokenizer.chat_template) if prompts.chat else None  # or several, by name
        tokenizer.chat_template = program.reward_template(own)
        notes = _scored_differently(base, tokenizer, prompts, program)
    left_out = write_with_head(base, REWARD_MODEL, head, "sequence", tokenizer, folder / REWARD_MODEL)
    return notes + _constant(left_out, f"{program.name}'s reward model has no bias: its scores are the run's minus")


def _constant(number: float, words: str) -> list[str]:
    return [f"{words} {number:.6g}"] if number else []


def _scored_differently(base: BaseModel, tokenizer, prompts: Prompts, program: Program) -> list[str]:
    """A sentence if the reward model reads other token ids than in the run, for a short response that ends."""
    different, response = 0, "ok" if prompts.chat else " ok"
    for prompt in prompts.train.prompts:
        written = tokenizer.apply_chat_template(
            [*Row(prompt).messages, {"role": "assistant", "content": response}], tokenize=False
        )
        read = tokenizer(written.removeprefix(tokenizer.bos_token or ""), verbose=False)["input_ids"]
        different += read != [token for part in encode_pair(base, prompt, response) for token in part]
    if not different:
        return []
    return [
        f"{program.name} gives the reward model other tokens than the run did for {count(different, prompts.train)}"
    ]

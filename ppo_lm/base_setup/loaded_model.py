"""A network that the user has loaded, in place of one that a configuration names."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ppo_lm.config import PPOConfig, RewardConfig, SFTConfig, ValueConfig
from ppo_lm.errors import ModelError

Config = TypeVar("Config", PPOConfig, SFTConfig, RewardConfig, ValueConfig)


class LoadedModel(NamedTuple):
    """A network and its tokenizer. As the base of a run it is frozen, and adapters are put into it, in place."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def of(cls, model: object, tokenizer: object) -> LoadedModel | None:
        """What the user passed from Python; None if nothing. Raises `ModelError` unless it is a network without
        adapters, and a tokenizer."""
        if model is None and tokenizer is None:
            return None
        if not isinstance(model, PreTrainedModel) or not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ModelError(
                f"model is of type {type(model).__name__} and tokenizer of type {type(tokenizer).__name__}; give a "
                "transformers PreTrainedModel and its tokenizer, or neither"
            )
        if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
            raise ModelError(
                "the given model has adapters, of peft or of an earlier trainer; load it again, or merge them into it "
                "first (merge_and_unload)"
            )
        return cls(model, tokenizer)

    def in_place_of(self, config: Config) -> Config:
        """The configuration with the name that the network was loaded by, if it has one; what is saved names it as the
        base."""
        return replace(config, model_name=self.network.name_or_path or config.model_name)

    def notes(self, model_name: str) -> list[str]:
        """For the headline of a run: which base is named by what is saved, if the network has no name."""
        return [] if self.network.name_or_path else [f"without a name, so what is saved names {model_name} as its base"]

    def converted(self, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Both, after converting the network in place if it has another dtype."""
        if self.network.dtype != dtype:
            self.network.to(dtype)  # pyright: ignore[reportArgumentType]  (transformers' wrapper hides self from it)
        return self.network, self.tokenizer

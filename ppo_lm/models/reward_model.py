"""A reward model on the shared base: an adapter and a head, trained from preferences."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, TaskType
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from ppo_lm.errors import ModelError, first_line
from ppo_lm.models.adapter_check import WEIGHTS_FILE
from ppo_lm.models.base_model import BaseModel
from ppo_lm.models.model_card import write_classifier_card
from ppo_lm.models.score_head import HEAD_FILE, ScoreHead
from ppo_lm.reading import Unreadable, read_json

NORMALISATION_FILE = "normalisation.json"
SCORE = "score"  # the head of a sequence classifier in transformers
LARGEST_NORMALISATION = 2**16  # bytes
REWARD_FILES = ("adapter_config.json", "adapter_model.safetensors", HEAD_FILE, NORMALISATION_FILE)


class RewardModel:
    """r(prompt, response): read at the last real token, then shifted and scaled by `mean` and `std`, which are measured
    so that reference summaries average 0 (2403.17031)."""

    def __init__(self, base: BaseModel, role: str = "reward"):
        self.base, self.role = base, role
        self.head = ScoreHead(base.hidden_size).to(base.device)
        self.mean, self.std = 0.0, 1.0

    def scores(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Score sequences of prompt and response, padded on either side. (B, T) int64, (B, T) bool → (B,) fp32."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        last = torch.where(attention_mask, positions, -1).argmax(dim=1)
        with self.base.role(self.role):
            hidden = self.base.hidden_states(input_ids, attention_mask, wanted=positions == last[:, None])
        rows = torch.arange(input_ids.shape[0], device=input_ids.device)
        return (self.head(hidden[rows, last]) - self.mean) / self.std

    def parameters(self) -> list[nn.Parameter]:
        """The trainable weights."""
        return [*self.base.role_parameters(self.role), *self.head.parameters()]

    def save(self, folder: str | Path) -> list[str]:
        """Write the adapter (PEFT's format), the head and its normalisation; and all of it as a sequence classifier for
        plain peft, in `classifier`. Returns a note if transformers has none for this architecture."""
        folder = Path(folder)
        self.base.save_adapter(self.role, folder)
        self.head.save(folder)
        (folder / NORMALISATION_FILE).write_text(
            json.dumps({"mean": self.mean, "std": self.std}) + "\n", encoding="utf-8"
        )
        if not self._has_classifier():
            kind = self.base.network.config.model_type
            return [
                f"transformers has no sequence classifier for {kind} models, so the reward model is for ppo_lm only"
            ]
        self._save_classifier(folder / "classifier")
        return []

    def _has_classifier(self) -> bool:
        """Whether transformers has a sequence classifier for this architecture with a linear head on the same
        network."""
        network = self.base.network
        kind: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(network.config), None)
        if kind is None or kind.base_model_prefix != network.base_model_prefix:
            return False
        with torch.device("meta"):
            classifier = kind(copy.deepcopy(network.config))
        head = getattr(classifier, SCORE, None)
        return isinstance(head, nn.Linear) and head.in_features == self.base.hidden_size

    def _save_classifier(self, folder: Path) -> None:
        """The adapter with task type SEQ_CLS and the normalised head as its `score`, and a README that loads it."""
        self.base.save_adapter(self.role, folder)
        config = cast("LoraConfig", LoraConfig.from_pretrained(str(folder)))
        config.task_type, config.modules_to_save = TaskType.SEQ_CLS, [SCORE]
        config.save_pretrained(str(folder))
        head = ScoreHead(self.base.hidden_size)
        head.start_from(self.head, self.mean, self.std)
        weights = load_file(folder / WEIGHTS_FILE)
        save_file({**weights, f"base_model.model.{SCORE}.weight": head.linear.weight.detach()}, folder / WEIGHTS_FILE)
        write_classifier_card(self.base, folder, head.linear.bias.item())

    @classmethod
    def load(cls, base: BaseModel, folder: str | Path, role: str = "reward") -> RewardModel:
        """Load what `save` wrote onto `base`."""
        folder = Path(folder)
        base.load_adapter(role, folder)
        model = cls(base, role)
        model.head.load(folder)
        model.mean, model.std = _read_normalisation(folder / NORMALISATION_FILE)
        return model


def _read_normalisation(file: Path) -> tuple[float, float]:
    try:
        found = read_json(file, largest=LARGEST_NORMALISATION)
        mean, std = float(found["mean"]), float(found["std"])
    except Unreadable as error:
        raise ModelError(f"{file} cannot be read: it {error}") from None
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ModelError(f"{file} cannot be read: {first_line(error)}; it holds a mean and a std") from error
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ModelError(f"{file} has mean {mean} and std {std}; both must be finite, and std above 0")
    return mean, std

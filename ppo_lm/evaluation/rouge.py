"""ROUGE, computed by torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence

KEYS = ("rouge1", "rouge2", "rougeL")


def rouge(completions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Mean F-measures of ROUGE-1, ROUGE-2 and ROUGE-L ("ROUGE: a package for automatic evaluation of summaries", Lin
    2004), each in [0, 1]."""
    from torchmetrics.functional.text.rouge import rouge_score

    found = rouge_score(list(completions), list(references), rouge_keys=KEYS)
    return {key: float(found[f"{key}_fmeasure"]) for key in KEYS}

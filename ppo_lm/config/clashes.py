"""Clashes between fields that several configurations have."""

from __future__ import annotations


def top_p_clashes(top_k: int, top_p: float) -> list[str]:
    """Reports top-p without top-k: the tokens that top-p alone leaves, which are kept for training, can be the whole
    vocabulary."""
    if top_p < 1 and top_k == 0:
        return [
            f"top_p is {top_p} but top_k is 0; without top_k, a token's support can be the whole vocabulary, which is "
            "kept for training: set top_k too (1000 hardly changes the distribution), or set top_p to 1"
        ]
    return []

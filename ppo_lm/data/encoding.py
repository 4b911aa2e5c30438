"""Texts to token ids, and lists of ids to padded batches with masks from their real lengths."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedTokenizerBase


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The token ids of a prompt, with the tokenizer's own start token if it has one."""
    return tokenizer(prompt)["input_ids"]


def encode_completion(tokenizer: PreTrainedTokenizerBase, completion: str, eos_token_id: int) -> list[int]:
    """The token ids of a completion, which brings its own leading space, and EOS (2403.17031)."""
    return [*tokenizer(completion, add_special_tokens=False)["input_ids"], eos_token_id]


def pad(sequences: Sequence[Sequence[int]], pad_token_id: int, *, side: str, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Pad on the "left" (PPO prompts) or "right" (SFT, reward data) to the longest. Returns ids (B, T) int64 and mask (B, T) bool."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad_token_id, dtype=torch.int64)
    mask = torch.zeros((len(sequences), width), dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        columns = slice(width - len(sequence), width) if side == "left" else slice(0, len(sequence))
        ids[row, columns] = torch.tensor(sequence, dtype=torch.int64)
        mask[row, columns] = True
    return ids.to(device), mask.to(device)


def length_bucketed_batches(lengths: Sequence[int], batch_size: int, rng: random.Random, window: int = 20) -> Iterator[list[int]]:
    """Yield every index once, in batches of similar length: shuffle, sort inside windows of `window` batches, shuffle the batches."""
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches = []
    for start in range(0, len(order), window * batch_size):
        bucket = sorted(order[start : start + window * batch_size], key=lambda i: lengths[i])
        batches += [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
    rng.shuffle(batches)
    yield from batches

"""What a run kept of single tokens: `tokens/step-NNNNNN.safetensors`, see `tracking.TokensSeen`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ppo_lm.config.output_folder import TOKEN_FILES, TOKENS
from ppo_lm.errors import UserError
from ppo_lm.reading import Unreadable, parse_json

NUMBERS = {  # the columns of a token that are shown, in this order, with their titles
    "kl": "KL to the reference",
    "rewards": "reward",
    "values": "value V(s)",
    "td_errors": "TD error δ",
    "advantages": "advantage",
    "returns": "λ-return",
    "reward_to_go": "reward-to-go",
    "ratios": "ratio after the step",
    "entropies": "entropy",
    "old_logprobs": "log-probability, policy",
    "ref_logprobs": "log-probability, reference",
}
MOST_TOKENS = 15_000  # of all responses in a report; about 5 MB

Record = dict[str, Any]


def read_token_files(folder: Path) -> Record:
    """`{"steps": [...], "left_out": n, "numbers": titles by name}`: as many of the kept steps, evenly spaced and the
    last among them, as a report has room for. Raises `UserError` for a damaged file."""
    files = sorted((folder / TOKENS).glob(TOKEN_FILES))
    kept = _evenly(files, _room(files))
    return {"steps": [_read(file) for file in kept], "left_out": len(files) - len(kept), "numbers": NUMBERS}


def _room(files: Sequence[Path]) -> int:
    """How many steps a report has room for, judged by the last one."""
    if not files:
        return 0
    mask = _tensors(files[-1])[0]["action_mask"]
    return max(MOST_TOKENS // max(int(mask.sum()), 1), 1)


def _evenly(files: Sequence[Path], most: int) -> list[Path]:
    if len(files) <= most:
        return list(files)
    places = np.linspace(len(files) - 1, 0, most).round().astype(int)
    return [files[place] for place in sorted(set(places.tolist()))]


def _read(file: Path) -> Record:
    tensors, texts = _tensors(file)
    return {
        "step": texts["step"],
        "kl_coef": texts["kl_coef"],
        "vocabulary": texts["vocabulary"],
        "responses": [_response(tensors, row, response) for row, response in enumerate(texts["responses"])],
    }


def _response(tensors: dict[str, np.ndarray], row: int, texts: Record) -> Record:
    """One response: its texts, and for each of its real tokens, observed ones included, whether it was sampled and
    what is known of it."""
    width = tensors["action_ids"].shape[1]
    real = tensors["attention_mask"][row, -width:]
    prompt_tokens = int(tensors["attention_mask"][row, :-width].sum())
    found = {
        "prompt": texts["prompt"],
        "columns": texts["columns"],
        "completion": texts["completion"],
        "rewards": texts["rewards"],
        "prompt_pieces": texts["pieces"][:prompt_tokens],
        "pieces": texts["pieces"][prompt_tokens:],
        "sampled": tensors["action_mask"][row, real].astype(int).tolist(),
        "score": _shortest(tensors["scores"][row]),
        "ended": bool(tensors["terminated"][row]),
        "numbers": {
            name: [_shortest(value) for value in tensors[name][row, real]] for name in NUMBERS if name in tensors
        },
        "choices": {},
    }
    for name in ("policy", "reference"):
        if f"{name}_choices" in tensors:
            ids, logprobs = tensors[f"{name}_choices"][row, real], tensors[f"{name}_choice_logprobs"][row, real]
            found["choices"][name] = [
                [[int(token), _shortest(logprob)] for token, logprob in zip(*place) if token >= 0]
                for place in zip(ids, logprobs)
            ]
    return found


def _shortest(number: np.floating) -> float | None:
    """As a float with no more digits than its own precision has."""
    return float(str(number)) if np.isfinite(number) else None


def _tensors(file: Path) -> tuple[dict[str, np.ndarray], Record]:
    """(tensors by name, the texts that go with them)."""
    try:
        with safe_open(file, framework="np") as opened:
            texts = parse_json((opened.metadata() or {})["texts"], allow_nan=True)
            return {name: opened.get_tensor(name) for name in opened.keys()}, texts  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, Unreadable) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}); remove it") from None

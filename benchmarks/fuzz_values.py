"""Random values, and damage to texts, JSON, tensors and folders, for the fuzzing campaign."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

TEXTS = [
    *("", " ", "\n", "auto", "cpu", "none", "null", "1", "-1", "1e400", "nan", "true", "~", "~nosuchuser", "a\0b"),
    *("\x1b[2J", "é", "日本語", "\u202e", "\ud800", "<|im_end|>", "<|endoftext|>", "<pad>", "{{ x }}", "../..", "/"),
    *(".", "a:b", "[", "{}", "http://127.0.0.1:1/", "%s", "x" * 300, "x" * 5000, "TL;DR:", "embedded"),
]
NUMBERS = [0, 1, -1, 2, 7, 10**9, 2**31, 2**63, 2**64, 10**300, 10**400, 0.0, -0.5, 0.5, 1e-300, 1e300]
NOT_NUMBERS = [float("nan"), float("inf"), float("-inf")]


def value(draw: random.Random, depth: int = 3) -> Any:
    """A value that JSON or YAML can hold."""
    kind = draw.randrange(10)
    if kind < 3:
        return draw.choice(NUMBERS + NOT_NUMBERS)
    if kind < 6:
        return draw.choice(TEXTS)
    if kind < 7 or depth == 0:
        return draw.choice([None, True, False])
    if kind < 9:
        return [value(draw, depth - 1) for _ in range(draw.randrange(4))]
    return {draw.choice(TEXTS): value(draw, depth - 1) for _ in range(draw.randrange(4))}


def nested(draw: random.Random) -> Any:
    """A list inside a list inside a list."""
    found: Any = value(draw, 0)
    for _ in range(draw.choice([10, 70, 3000])):
        found = [found]
    return found


def damaged_bytes(draw: random.Random, content: bytes, hostile: list[bytes]) -> bytes:
    """`content` cut, with changed, added or repeated bytes, or something else altogether."""
    start, length = draw.randrange(len(content) + 1), draw.choice([1, 1, 2, 8, 100])
    after = content[start + length :]
    kinds: list[Callable[[], bytes]] = [
        lambda: content[:start],
        lambda: content[:start] + after,
        lambda: content[:start] + draw.randbytes(length) + after,
        lambda: content[:start] + draw.randbytes(length) + content[start:],
        lambda: content[:start] + content[start : start + length] * draw.choice([2, 50]) + after,
        lambda: content + content,
        lambda: b"",
        lambda: draw.choice(hostile),
    ]
    return draw.choice(kinds)()


def damaged_json(draw: random.Random, content: Any) -> Any:
    """A copy of `content` in which one value is another one, or missing, or there twice."""
    content = copy.deepcopy(content)
    if not isinstance(content, (dict, list)) or not content or draw.random() < 0.05:
        return value(draw)
    key = draw.choice(list(content)) if isinstance(content, dict) else draw.randrange(len(content))
    kind = draw.randrange(5)
    if kind == 0:
        del content[key]
    elif kind == 1 and isinstance(content, dict):
        content[draw.choice(TEXTS)] = value(draw)
    elif kind == 2 and isinstance(content[key], (dict, list)):
        content[key] = damaged_json(draw, content[key])
    else:
        content[key] = value(draw)
    return content


def write_json(file: Path, content: Any) -> None:
    """As any program may: with NaN and lone surrogates."""
    file.write_text(json.dumps(content), encoding="utf-8")


def damage_tensors(draw: random.Random, file: Path) -> None:
    """Leave out, rename, reshape, convert, or spoil one tensor in a file."""
    tensors = load_file(file)
    name = draw.choice(sorted(tensors))
    tensor = tensors.pop(name)
    kinds: list[Callable[[], dict[str, torch.Tensor]]] = [
        dict,
        lambda: {f"x.{name}": tensor},
        lambda: {name: tensor, f"{name}.x": tensor.clone()},
        lambda: {name: tensor[None]},
        lambda: {name: tensor[:-1] if tensor.dim() else tensor},
        lambda: {name: torch.zeros(0)},
        lambda: {name: torch.cat([tensor, tensor]) if tensor.dim() else tensor[None]},
        lambda: {name: tensor.to(draw.choice([torch.int64, torch.bool, torch.float16, torch.float64]))},
        lambda: {name: torch.full_like(tensor, draw.choice([*NOT_NUMBERS, 1e30]))},
    ]
    save_file({**tensors, **draw.choice(kinds)()}, file, {"format": "pt"})


def damage_folder(draw: random.Random, folder: Path, hostile: list[bytes]) -> None:
    """Damage one of the files in a folder, in a way that goes with its kind."""
    file = draw.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    kind = draw.randrange(10)
    if kind == 0:
        file.unlink()
    elif kind == 1:
        file.unlink()
        file.mkdir()
    elif kind < 7 and file.suffix == ".json":
        write_json(file, damaged_json(draw, json.loads(file.read_bytes())))
    elif kind < 7 and file.suffix == ".safetensors":
        damage_tensors(draw, file)
    else:
        file.write_bytes(damaged_bytes(draw, file.read_bytes(), hostile))

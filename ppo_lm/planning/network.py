"""A model's layers and their shapes, without its weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ppo_lm.base_setup import EMBEDDED_MODEL, read_adapter_base
from ppo_lm.base_setup.base_setup import check_hub_has
from ppo_lm.errors import ModelError, first_line
from ppo_lm.models.adapter_check import CONFIG_FILE
from ppo_lm.planning.published import QWEN3, published_config
from ppo_lm.reading import user_path

EMBEDDED = ("embedded", "embedded-blank")


class Source(NamedTuple):
    """What transformers reads a model from."""

    where: str
    options: dict[str, Any]


def blank_network(model_name: str, dtype: torch.dtype) -> PreTrainedModel:
    """The network that `load_base` loads, on the meta device: modules with shapes, and no memory. Raises `ModelError`
    for a model whose configuration cannot be found or used."""
    config = published_config(model_name) or _read(AutoConfig, model_name, find_source(model_name))
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    except ValueError as error:
        raise ModelError(f"model {model_name!r} is not a causal language model: {first_line(error)}") from error


def find_tokenizer(model_name: str) -> PreTrainedTokenizerBase | None:
    """The model's tokenizer; None for a published model that is not in the local cache. Raises `ModelError`."""
    if published_config(model_name) is not None:
        cached = try_to_load_from_cache(model_name, "tokenizer_config.json")
        if not isinstance(cached, str):
            return None
    return _read(AutoTokenizer, model_name, find_source(model_name))


def find_source(model_name: str) -> Source:
    """Where the files of a model are: the embedded one, a .gguf file, a folder (of a model or an adapter), or a hub id.
    Raises `ModelError` if there is no such thing."""
    path = EMBEDDED_MODEL if model_name in EMBEDDED else user_path(model_name, "model_name", ModelError)
    if path.suffix == ".gguf" and path.is_file():
        return Source(str(path.parent), {"gguf_file": path.name})
    if (path / CONFIG_FILE).is_file():
        return find_source(read_adapter_base(path))
    if path.is_dir():
        return Source(str(path), {})
    if model_name.count("/") != 1 or path.suffix == ".gguf" or model_name.startswith((".", "~", "/")):
        raise ModelError(f"model {model_name!r}: there is no such file or folder")
    try:
        check_hub_has(model_name)
    except ModelError as error:
        known = ", ".join(f"Qwen/Qwen3-{size}" for size in QWEN3)
        raise ModelError(f"{error} Without a network, ppo-lm plan also knows {known}.") from None
    return Source(model_name, {})


def _read(kind: Any, model_name: str, source: Source) -> Any:
    try:
        return kind.from_pretrained(source.where, trust_remote_code=False, **source.options)
    except Exception as error:  # a missing or damaged file, an unknown architecture, a package that is not installed
        raise ModelError(f"model {model_name!r}: {source.where} cannot be read: {first_line(error)}") from error

"""Load the frozen base: a hub id, a folder, a .gguf file, or "embedded"."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ppo_lm.base_setup.tokenizer_setup import find_eos_token_ids, set_up_tokenizer
from ppo_lm.errors import ModelError
from ppo_lm.models import BaseModel

EMBEDDED_MODEL = Path(__file__).parents[1] / "embedded" / "model"
WAYS_OUT = 'Give a folder with the model, a .gguf file, or "embedded" for the small model that comes with ppo_lm'
HUB_TIMEOUT = 5  # seconds


def load_base(model_name: str, dtype: str = "auto", device: str = "auto", *, full_weights: bool = False) -> BaseModel:
    """Load the network and its tokenizer, frozen.

    dtype "auto" is bfloat16 on a GPU and float32 on a CPU, and float32 wherever `full_weights` are to be trained. Raises
    `ModelError`, one sentence with the ways out, when the model cannot be reached or is no causal language model with a plain head.
    """
    where = pick_device(device)
    kind = pick_dtype(dtype, where, full_weights)
    source = EMBEDDED_MODEL if model_name == "embedded" else Path(model_name).expanduser()
    if source.suffix == ".gguf":
        network, tokenizer = _load_gguf(source, kind)
    elif source.is_dir() or _is_local_path(model_name):
        network, tokenizer = _load_folder(model_name, source, kind)
    else:
        check_hub_has(model_name)
        network, tokenizer = _load_pretrained(model_name, model_name, kind)
    network.to(where)
    _check_head(network, model_name)
    eos_token_ids = find_eos_token_ids(network, tokenizer)
    if not eos_token_ids:
        raise ModelError(f"model {model_name!r}: neither its tokenizer nor its configuration names an end-of-sequence token; set one in tokenizer_config.json")
    return BaseModel(network, set_up_tokenizer(tokenizer, eos_token_ids), eos_token_ids, model_name)


def pick_device(device: str) -> torch.device:
    """"auto" is the first CUDA GPU if there is one, else Apple's GPU, else the CPU."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(dtype: str, device: torch.device, full_weights: bool) -> torch.dtype:
    """"auto" as `load_base` says; otherwise torch's dtype of that name."""
    if dtype != "auto":
        return getattr(torch, dtype)
    return torch.bfloat16 if device.type == "cuda" and not full_weights else torch.float32


def _is_local_path(model_name: str) -> bool:
    return model_name == "embedded" or model_name.startswith((".", "/", "~")) or model_name.count("/") > 1


def check_hub_has(model_name: str) -> None:
    """Raise `ModelError` within seconds unless `model_name` is in the local cache or the hub answers for it."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(model_name, "config.json") if model_name.count("/") <= 1 else None, str):
        return
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        HfApi().model_info(model_name, timeout=HUB_TIMEOUT)
    except Exception as error:  # the hub client raises many kinds: no network, no such model, gated, malformed name
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model {model_name!r} cannot be reached: there is no such folder here, it is not in the local cache, and the hub said: "
            f"{reason.rstrip('.')}. {WAYS_OUT}; for a hub id, check its spelling, the network, and `hf auth login`."
        ) from None


def _load_folder(model_name: str, folder: Path, dtype: torch.dtype):
    if not folder.is_dir():
        raise ModelError(f"model {model_name!r}: there is no folder {folder}. {WAYS_OUT}.")
    if not (folder / "config.json").is_file():
        raise ModelError(f"model {model_name!r}: {folder} has no config.json, so it holds no model in transformers' format. {WAYS_OUT}.")
    return _load_pretrained(model_name, str(folder), dtype)


def _load_pretrained(model_name: str, source: str, dtype: torch.dtype, **options):
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        network = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"model {model_name!r} cannot be loaded: {reason}. {WAYS_OUT}.") from error
    return network, tokenizer


def _load_gguf(file: Path, dtype: torch.dtype):
    """Load a GGUF file de-quantised, as a plain network that can be saved."""
    if not file.is_file():
        raise ModelError(f"model {str(file)!r}: there is no such file. {WAYS_OUT}.")
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise ModelError(f"model {str(file)!r}: reading GGUF needs the package gguf; install it with `pip install gguf`.") from None
    loaded, tokenizer = _load_pretrained(str(file), str(file.parent), dtype, gguf_file=file.name)
    settings = {key: value for key, value in loaded.config.to_dict().items() if key not in ("quantization_config", "_name_or_path")}
    config = AutoConfig.for_model(**settings)
    network = AutoModelForCausalLM.from_config(config, dtype=dtype)
    network.load_state_dict(loaded.state_dict(), strict=False)
    network.tie_weights()
    network.generation_config = loaded.generation_config
    return network, tokenizer


@torch.no_grad()
def _check_head(network: PreTrainedModel, model_name: str) -> None:
    """The package computes logits as head(last hidden state); refuse a model for which that is not what its forward pass does."""
    network.eval()
    ids = torch.arange(1, 6, device=network.device)[None]
    expected = network(input_ids=ids, use_cache=False).logits
    ours = network.get_output_embeddings()(network.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
    if not torch.allclose(ours, expected, rtol=1e-3, atol=1e-3):
        raise ModelError(f"model {model_name!r} changes its logits after the output layer (soft-capping or scaling), which ppo_lm does not support yet")

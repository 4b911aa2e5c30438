"""Load the frozen base: a hub id, a folder, a .gguf file, or "embedded"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from ppo_lm.base_setup.blank_network import make_blank_network
from ppo_lm.base_setup.loaded_model import LoadedModel
from ppo_lm.base_setup.quantising import (
    check_can_quantise,
    check_not_quantised,
    describe_quantised,
    quantise,
    read_quantisation,
)
from ppo_lm.base_setup.sharding import shard_base
from ppo_lm.base_setup.tokenizer_setup import find_eos_token_ids
from ppo_lm.distributed import find_place
from ppo_lm.errors import ModelError, UserError, first_line
from ppo_lm.fast.quantisation import NONE
from ppo_lm.fast.quantised_linear import quantised_layers
from ppo_lm.fast.trial import is_refusal, trial_ids
from ppo_lm.models import BaseModel
from ppo_lm.models.adapter_check import CONFIG_FILE, check_adapter_folder, check_writes_text
from ppo_lm.models.complete import check_complete, check_finite, list_some
from ppo_lm.models.loading import loading
from ppo_lm.models.merging import rounding_note
from ppo_lm.reading import user_path

EMBEDDED_MODEL = Path(__file__).parents[1] / "embedded" / "model"
WAYS_OUT = 'Use a model folder, a .gguf file, or "embedded" for the small model that comes with ppo_lm'
HUB_TIMEOUT = 5  # seconds
SAME = 1e-3  # relative tolerance between two calls of the same layers


def load_base(
    model_name: str,
    dtype: str = "auto",
    device: str = "auto",
    *,
    seed: int = 0,
    fast: bool = True,
    allow_special_tokens: bool = False,
    loaded: LoadedModel | None = None,
    shard: bool = False,
    quantisation: str = NONE,
) -> BaseModel:
    """Load the network and its tokenizer, frozen.

    dtype "auto" is bfloat16 on a GPU and float32 on a CPU. Raises `ModelError`, which says what to do, if the model
    cannot be reached or is not a causal language model with a plain head. `fast` and
    `allow_special_tokens` as in `BaseModel`. An adapter's folder loads its base with the adapter merged in.
    "embedded-blank" is the embedded network before training, initialised with `seed`. `loaded` takes the place of the
    network that `model_name` names; with "auto" it keeps its dtype and device. `shard`: share the weights out among the
    processes (`BaseModel.shard`), each of which first loads all of them into the CPU's memory.

    `quantisation`: "nf4" or "int8", to hold the linear layers in 4 or 8 bits (`fast.quantisation`); the whole model is
    first loaded into the CPU's memory. An adapter that was trained on a quantised base is put onto the same one, and
    not quantised itself.
    """
    check_can_quantise(quantisation)
    with loading(model_name):
        return _load(model_name, dtype, device, seed, fast, allow_special_tokens, loaded, shard, quantisation)


def _load(
    model_name: str,
    dtype: str,
    device: str,
    seed: int,
    fast: bool,
    allow_special_tokens: bool,
    loaded: LoadedModel | None,
    shard: bool,
    quantisation: str,
) -> BaseModel:
    where = loaded.network.device if loaded and device == "auto" else pick_device(device)
    kind = loaded.network.dtype if loaded and dtype == "auto" else pick_dtype(dtype, where)
    source = EMBEDDED_MODEL if model_name == "embedded" else user_path(model_name, "model_name", ModelError)
    name = str(source.resolve()) if source.exists() else model_name
    notes: list[str] = []
    if loaded:
        check_not_quantised(loaded.network, "the given model")
        network, tokenizer = loaded.converted(kind)
    elif model_name == "embedded-blank":
        network, tokenizer = make_blank_network(seed)
        for weight in network.parameters():
            weight.data = weight.data.to(kind)
    elif source.suffix == ".gguf":
        network, tokenizer = _load_gguf(source, kind)
    elif (source / CONFIG_FILE).is_file():
        exactly = str(kind).removeprefix("torch.")
        network, tokenizer, notes = _load_adapter(source, exactly, "cpu" if shard else device, quantisation)
    elif source.is_dir() or _is_local_path(model_name):
        network, tokenizer = _load_folder(model_name, source, kind)
    else:
        check_hub_has(model_name)
        network, tokenizer = _load_pretrained(model_name, model_name, kind)
    check_not_quantised(network, f"model {model_name!r}")
    eos_token_ids = find_eos_token_ids(network, tokenizer)
    if not eos_token_ids:
        raise ModelError(
            f"model {model_name!r}: neither its tokenizer nor its configuration defines an end-of-sequence token; set "
            "one in tokenizer_config.json"
        )
    if quantisation != NONE and not quantised_layers(network):
        quantise(network, quantisation, where, f"model {model_name!r}")
    network.to("cpu" if shard else where)  # pyright: ignore[reportArgumentType]  (transformers' wrapper hides self from it)
    _check_vocabulary(network, tokenizer, model_name)
    base = BaseModel(network, tokenizer, eos_token_ids, name, fast, allow_special_tokens)
    check_finite(network.named_parameters(), f"model {model_name!r}")
    _check_network(base, model_name)
    base.notes += ["de-quantised from GGUF"] if source.suffix == ".gguf" else []
    base.notes += loaded.notes(model_name) if loaded else []
    base.notes[:0] = describe_quantised(network)
    base.notes += notes
    if shard:
        shard_base(base, where)
    return base


def pick_device(device: str) -> torch.device:
    """ "auto" is the first CUDA GPU if there is one, and of several processes each takes one; else Apple's GPU, else
    the CPU. Raises `ModelError` for a device that is not available."""
    present = (
        [f"cuda:{i}" for i in range(torch.cuda.device_count())] + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    )
    if device == "auto":
        return torch.device(present[find_place().local_rank if torch.cuda.is_available() else 0])
    if device not in present and not (device == "cuda" and "cuda:0" in present):
        raise ModelError(
            f"device {device!r} is not available; this machine has {', '.join(present)}; set device to one of these or "
            "to auto"
        )
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """ "auto" as in `load_base`; otherwise torch's dtype of that name."""
    if dtype != "auto":
        return getattr(torch, dtype)
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _is_local_path(model_name: str) -> bool:
    return model_name == "embedded" or model_name.startswith((".", "/", "~")) or model_name.count("/") > 1


def check_hub_has(model_name: str) -> None:
    """Raise `ModelError` within seconds unless `model_name` is in the local cache or on the hub."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    try:
        if isinstance(try_to_load_from_cache(model_name, "config.json"), str):
            return
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        HfApi().model_info(model_name, timeout=HUB_TIMEOUT)
    except Exception as error:  # many kinds: no network, no such model, gated, malformed name
        raise ModelError(
            f"model {model_name!r} cannot be reached: it is neither a local folder nor in the local cache, and the hub "
            f"said: {first_line(error)}. {WAYS_OUT}; for a hub id, check its spelling, the network, and `hf auth "
            "login`."
        ) from None


def read_adapter_base(folder: Path) -> str:
    """The name of the model that the adapter in `folder` belongs to. Raises `ModelError` for an adapter that is not
    supported."""
    name = check_adapter_folder(folder).get("base_model_name_or_path")
    if not name:
        raise ModelError(f"adapter {str(folder)!r}: {CONFIG_FILE} has no base model (base_model_name_or_path)")
    return name


def load_adapter(base: BaseModel, role: str, folder: Path) -> None:
    """Like `base.load_adapter`, but raises `ModelError` if the adapter does not fit its base."""
    try:
        base.load_adapter(role, folder)
    except UserError:
        raise
    except Exception as error:  # peft and safetensors raise many kinds of error
        raise ModelError(
            f"adapter {str(folder)!r} cannot be loaded onto its base {base.name!r}: {first_line(error)}"
        ) from error


def _load_adapter(
    folder: Path, dtype: str, device: str, quantisation: str
) -> tuple[Any, PreTrainedTokenizerBase, list[str]]:
    """The network with the adapter in its weights, the tokenizer, and notes. The base is quantised if it was when the
    adapter was trained, and its weights are made dense only if none are to be quantised."""
    _check_bases(folder)
    was = read_quantisation(folder)
    base = load_base(
        read_adapter_base(folder), dtype, device, quantisation=was if quantisation == NONE else quantisation
    )
    known = len(base.notes)
    load_adapter(base, "merged", folder)
    network, kept = base.merged_network("merged") if quantisation == NONE else base.network_with("merged")
    lost = rounding_note(kept, base.dtype)
    of_dense = [f"its weights have been rounded to {was}"] if quantisation == NONE and was != NONE else []
    return network, base.tokenizer, [*of_dense, *base.notes[known:], *([lost] if lost else [])]


def _check_bases(folder: Path) -> None:
    """Raise `ModelError` if an adapter is its own base, directly or through other adapters."""
    seen: list[Path] = []
    while (folder / CONFIG_FILE).is_file():
        if folder.resolve() in seen:
            raise ModelError(
                f"adapter {str(seen[0])!r} is its own base: {CONFIG_FILE} names {str(folder)!r} as "
                "base_model_name_or_path; name the model that it was trained on"
            )
        check_writes_text(folder)
        seen.append(folder.resolve())
        base = f"adapter {str(folder)!r}: base_model_name_or_path"
        folder = user_path(read_adapter_base(folder), base, ModelError)


def _load_folder(model_name: str, folder: Path, dtype: torch.dtype):
    if not folder.is_dir():
        raise ModelError(f"model {model_name!r}: there is no folder {folder}. {WAYS_OUT}.")
    if not (folder / "config.json").is_file():
        within = [name for name in ("merged", "adapter") if (folder / name).is_dir()]
        if within:
            raise ModelError(
                f"model {model_name!r} is the folder of a run, not of a model; name the model in it, "
                f"{' or '.join(str(folder / name) for name in within)}"
            )
        raise ModelError(
            f"model {model_name!r}: {folder} has no config.json, so it is not a model in transformers' format. "
            f"{WAYS_OUT}."
        )
    return _load_pretrained(model_name, str(folder), dtype)


def _load_pretrained(model_name: str, source: str, dtype: torch.dtype, **options):
    part = "its tokenizer"
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
        part = "it"
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, trust_remote_code=False, output_loading_info=True, **options
        )
    except Exception as error:  # a missing or damaged file, an unknown architecture, a package that is not installed
        reason = f"there is no {error}" if isinstance(error, KeyError) else first_line(error)
        raise ModelError(f"model {model_name!r}: {part} cannot be loaded: {reason}. {WAYS_OUT}.") from error
    network, loading = loaded
    check_complete(loading, f"model {model_name!r}")
    return network, tokenizer


def _load_gguf(file: Path, dtype: torch.dtype):
    """Load a GGUF file, dequantised into a plain network that can be saved."""
    if not file.is_file():
        raise ModelError(f"model {str(file)!r}: there is no such file. {WAYS_OUT}.")
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise ModelError(
            f"model {str(file)!r}: reading GGUF needs the package gguf; install it with `pip install gguf`."
        ) from None
    loaded, tokenizer = _load_pretrained(str(file), str(file.parent), dtype, gguf_file=file.name)
    settings = {
        key: value
        for key, value in loaded.config.to_dict().items()
        if key not in ("quantization_config", "_name_or_path")
    }
    config = AutoConfig.for_model(**settings)
    network = AutoModelForCausalLM.from_config(config, dtype=dtype)
    missing, unexpected = network.load_state_dict(loaded.state_dict(), strict=False)
    if unexpected or not set(missing) <= set(network.all_tied_weights_keys):
        raise ModelError(
            f"model {str(file)!r}: its weights do not fit its architecture: {list_some([*missing, *unexpected])}"
        )
    network.tie_weights()
    network.generation_config = loaded.generation_config
    return network, tokenizer


def _check_vocabulary(network: Any, tokenizer: PreTrainedTokenizerBase, model_name: str) -> None:
    """Refuse a tokenizer that writes text with tokens that the network does not know. Added tokens beyond the
    embedding, as Gemma 3's for images, do no harm."""
    words = len(network.get_input_embeddings().weight)
    eos = [token for token in (tokenizer.eos_token_id,) if isinstance(token, int)]
    if tokenizer.vocab_size > words or any(token >= words for token in eos):
        raise ModelError(
            f"model {model_name!r} has embeddings for {words:,} tokens, but its tokenizer has {len(tokenizer):,}; use "
            "the tokenizer that it was trained with, or add embeddings with transformers' resize_token_embeddings and "
            "save it again"
        )


@torch.no_grad()
def _check_network(base: BaseModel, model_name: str) -> None:
    """The package computes logits as head(last hidden state) of padded rows; refuse a network whose own forward pass
    disagrees."""
    ids = trial_ids(base.network, 9)[None]
    try:
        expected = base.network(input_ids=ids, use_cache=False).logits.float()
        plain = base.logits(base.network.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state).float()
    except Exception as error:
        if not is_refusal(error):
            raise
        raise ModelError(
            f"model {model_name!r} cannot be run as a decoder followed by an output layer, which ppo_lm needs: "
            f"{first_line(error)}"
        ) from error
    if not (plain - expected).norm() <= SAME * expected.norm():
        raise ModelError(
            f"model {model_name!r} computes its logits with more than its output layer (soft-capping, scaling, or "
            "another layer), which ppo_lm does not support yet"
        )
    if base.paths.why_not_causal:
        raise ModelError(
            f"model {model_name!r} is not a causal language model: what follows a token changes its results; use a "
            "decoder"
        )
    if base.paths.why_not_padded:
        raise ModelError(
            f"model {model_name!r} gives other results for padded rows with position ids than for a row by itself, so "
            f"its numbers could not be trusted: {base.paths.why_not_padded}"
        )

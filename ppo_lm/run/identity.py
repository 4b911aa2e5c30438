"""What a run's numbers depend on besides its settings, as a checkpoint records it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

import torch

import ppo_lm
from ppo_lm import kernels
from ppo_lm.data import PromptSet
from ppo_lm.distributed.slices import whole
from ppo_lm.fast.quantisation import NF4
from ppo_lm.fingerprint import fingerprint, fingerprint_weights, source_of
from ppo_lm.models import BaseModel
from ppo_lm.optimisation import OptimiserParts

PACKAGES = ("torch", "transformers", "peft")  # whose versions round differently

DATA = ("the prompts", "the training data", "the held-out data")  # what no resumed run may change

THREADS = "the number of CPU threads"
KERNELS = "whether our own kernels run on the CPU"

Identity = dict[str, object]  # plain values, or hashes, each under a name for messages


def identify_base(base: BaseModel) -> Identity:
    """The network without adapters, its tokenizer, and what decides how it rounds: dtype, kind of device, a CPU's
    threads and kernels, versions."""
    network, tokenizer = base.network, base.tokenizer
    weights = [pair for pair in (*network.named_parameters(), *network.named_buffers()) if ".lora_" not in pair[0]]
    packages = [*PACKAGES, *(["bitsandbytes"] if base.quantisation == NF4 else [])]
    cpu: Identity = {}
    if base.device.type == "cpu":
        cpu = {THREADS: torch.get_num_threads(), KERNELS: kernels.why_not(base.device, base.dtype) is None}
    return {
        "the weights of the base model": fingerprint_weights((name, whole(weight)) for name, weight in weights),
        "the tokenizer": fingerprint([sorted(tokenizer.get_vocab().items()), tokenizer.chat_template]),
        "the dtype of the base model": str(base.dtype).removeprefix("torch."),
        "the kind of device": base.device.type,
        **cpu,
        "the version of ppo_lm": ppo_lm.__version__,
        **{f"the version of {package}": version(package) for package in packages},
    }


def identify_prompts(train: PromptSet, held_out: PromptSet) -> Identity:
    """The prompts, and each of their columns."""
    columns = {
        f"column {name!r} of the prompts": fingerprint([values, held_out.columns.get(name)])
        for name, values in train.columns.items()
    }
    return {"the prompts": fingerprint([train.prompts, held_out.prompts]), **columns}


def identify_optimiser_parts(parts: OptimiserParts) -> dict[str, str | None]:
    """The code of the optimiser and its schedule, for `identify_parts`."""
    return {"the optimiser": source_of(parts.make), "the learning rate schedule": source_of(parts.schedule)}


def identify_parts(identities: Mapping[str, object]) -> Identity:
    """The code or weights of parts by name; None for those that have neither."""
    return {
        f"the code (compared by file) or weights of {name}": value if isinstance(value, str) else fingerprint(value)
        for name, value in identities.items()
        if value is not None
    }

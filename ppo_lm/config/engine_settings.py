"""Who samples the responses that are trained on. Does not import torch."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Protocol

from ppo_lm.config.field_types import MAY_CHANGE, PositiveFloat, Rule, Text, Topic
from ppo_lm.config.settings import Settings

REMOTE = ("vllm", "sglang")  # engines that are servers
LOWEST_TEMPERATURE = {"vllm": 0.01}  # it raises anything between 0 and this


def _are_addresses(urls: list[str]) -> bool:
    """Whether each is the address of a server, and none is there twice."""
    return bool(urls) and len(set(urls)) == len(urls) and all(url.startswith(("http://", "https://")) for url in urls)


@dataclasses.dataclass(kw_only=True)
class EngineSettings(Settings):
    """The sampling engine, and where it is if it is elsewhere."""

    MEMORY = Topic("Memory and speed")

    engine: Text = "auto"
    """Sampling engine: slots, graphs (slots whose steps a GPU replays as CUDA graphs), transformers, vllm or sglang
    (servers of engine_urls), or your own, as module:name or file.py:name. auto: with a supported network graphs on CUDA
    and slots elsewhere, else transformers."""
    engine_urls: Annotated[
        list[str] | None, MAY_CHANGE, Rule("name different servers, such as http://host:8000", _are_addresses)
    ] = None
    """Address of a vLLM or SGLang server that samples, such as http://host:8000; repeat the option for several. Use a
    network that you trust."""
    engine_folder: Annotated[str | None, MAY_CHANGE] = None
    """Folder in which the servers of engine_urls read the policy's adapters, by the same path as here. Default: a
    temporary folder, for servers on this machine."""
    engine_timeout: Annotated[PositiveFloat, MAY_CHANGE] = 600.0
    """Seconds that a server of engine_urls may take for a response, or keep failing, before it is dropped; when none is
    left, the run is saved and stops."""

    def clashes(self) -> list[str]:
        clashes = super().clashes()
        if self.engine in REMOTE and self.engine_urls is None:
            clashes.append(
                f"engine is {self.engine} but engine_urls is not set; name the servers, such as http://host:8000"
            )
        if self.engine not in REMOTE:
            clashes += [
                f"{name} is set but engine is {self.engine}; set engine to {' or '.join(REMOTE)}"
                for name in ("engine_urls", "engine_folder")
                if getattr(self, name) is not None
            ]
        return clashes


class Sampling(Protocol):
    """The settings that a server's sampling depends on."""

    engine: str
    lora_r: int
    temperature: float
    top_k: int
    top_p: float
    eval_temperature: float
    rollout_slots: int | None


def remote_clashes(config: Sampling) -> list[str]:
    """Reports what a server cannot do."""
    clashes, engine = [], config.engine
    lowest = LOWEST_TEMPERATURE.get(engine, 0.0)
    if config.top_k or config.top_p < 1:
        clashes.append(
            f"top_k is {config.top_k} and top_p is {config.top_p} but engine is {engine}, which does not report which "
            "tokens remain to sample from; set top_k to 0 and top_p to 1"
        )
    if not config.lora_r:
        clashes.append(f"lora_r is 0 but engine is {engine}, which gets the policy as an adapter; set lora_r")
    for name in ("temperature", "eval_temperature"):
        if 0 < getattr(config, name) < lowest:
            clashes.append(
                f"{name} is {getattr(config, name)} but engine is {engine}, which samples at 0 or at "
                f"{lowest} and above; raise {name}"
            )
    if config.rollout_slots is not None:
        clashes.append(
            f"rollout_slots is set but engine is {engine}, whose servers decide how much they sample at once; remove it"
        )
    return clashes

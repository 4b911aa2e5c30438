"""What `against.py` runs: the variants of ours, and each peer's, side by side with those of ours that do its work."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
OURS = (sys.executable, str(HERE / "our_ppo.py"))


@dataclass(frozen=True)
class Variant:
    """One way to run a side: what its script is told."""

    title: str
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Match:
    """Each of `theirs` is compared with each of `ours`."""

    theirs: tuple[Variant, ...]
    ours: tuple[Variant, ...]


@dataclass(frozen=True)
class Peer:
    """Another implementation: the command that runs it on a workload, and what to compare there."""

    command: tuple[str, ...]
    matches: dict[str, tuple[Match, ...]]


BF16 = Variant("ours, LoRA, bf16", ("lora_r=16", "dtype=bfloat16"))
BF16_SHARED = Variant(f"{BF16.title}, value head on the policy", (*BF16.settings, "value_backbone=shared"))
BF16_GPU = Variant(BF16.title, (*BF16.settings, "micro_batch_tokens=16384", "rollout_slots=128"))
FP32 = Variant("ours, LoRA, fp32", ("lora_r=16", "dtype=float32"))
ALL_BF16 = Variant("ours, all weights, bf16", ("lora_r=0", "dtype=bfloat16"))
ALL_FP32 = Variant("ours, all weights, fp32", ("lora_r=0", "dtype=float32"))

TRL = (Variant("TRL"),)
AGILERL_BF16 = (
    Variant("AgileRL, bf16, one prompt a call", ("dtype=bfloat16", "together=false")),
    Variant("AgileRL, bf16, sampled together", ("dtype=bfloat16", "together=true")),
)
AGILERL_FP32 = (
    Variant("AgileRL, fp32, one prompt a call", ("dtype=float32", "together=false")),
    Variant("AgileRL, fp32, sampled together", ("dtype=float32", "together=true")),
)
AGILERL = (Match(AGILERL_BF16, (BF16, BF16_SHARED)), Match(AGILERL_FP32, (FP32,)))

PEERS = {
    "trl": Peer(  # 1.12; computes in fp32 on a CPU
        (sys.executable, str(HERE / "trl_ppo.py")),
        {
            "smollm2": (Match(TRL, (BF16, BF16_SHARED, FP32)),),
            "tiny": (Match(TRL, (BF16, BF16_SHARED, ALL_BF16, ALL_FP32)),),
            "qwen3": (Match(TRL, (BF16_GPU,)),),
        },
    ),
    "agilerl": Peer(  # 2.58, in an environment of its own, on a CPU; trains adapters only
        (os.environ.get("UV", "uv"), "run", "--script", str(HERE / "agilerl_ppo.py")),
        {"smollm2": AGILERL, "tiny": AGILERL},
    ),
}

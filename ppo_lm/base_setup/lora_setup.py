"""LoRA settings of a role."""

from __future__ import annotations

from peft import LoraConfig, TaskType


def make_lora_config(r: int, alpha: float, dropout: float, targets: str = "all-linear") -> LoraConfig:
    """A LoRA adapter ("LoRA", 2106.09685) on `targets`: "all-linear" (every linear layer except the output head) or
    comma-separated module names, such as "q_proj,v_proj"."""
    modules = targets if targets == "all-linear" else [name.strip() for name in targets.split(",")]
    return LoraConfig(
        r=r,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]  (peft says int, and takes any number)
        lora_dropout=dropout,
        target_modules=modules,
        task_type=TaskType.CAUSAL_LM,
    )

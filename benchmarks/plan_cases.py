"""The configurations that `plan_check.py` measures: those that the efficiencies of `ppo-lm plan` are fitted to, and
those that its predictions are checked on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workloads import prepare


@dataclass(frozen=True)
class Case:
    """A PPO step: prompts of `shortest` to `longest` tokens, every response of `max_new_tokens` tokens."""

    model: str
    shortest: int
    longest: int
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt_tokens(self) -> int:
        """Of a prompt, on average."""
        return (self.shortest + self.longest) // 2

    def config(self, folder: Path) -> dict[str, Any]:
        """The settings that `ppo-lm train` would get; `folder`: where `make_model` put the model."""
        name = "embedded" if self.model == "embedded" else str(folder / self.model / "policy")
        measured = {"device": "cpu", "top_k": 0, "top_p": 1.0, "eval_prompts": 0}  # steps, and no evaluation
        return {"model_name": name, **measured, **self.settings}

    def make_model(self, folder: Path) -> None:
        """Write the model into `folder`, unless it is there or comes with the package."""
        if self.model != "embedded" and not (folder / self.model / "policy" / "config.json").exists():
            prepare(folder, self.model, scorers=False)


def _case(model: str, prompt: tuple[int, int], rows: int, new_tokens: int, lora_r: int, dtype: str, **settings) -> Case:
    sizes = {"batch_size": rows, "max_new_tokens": new_tokens, "lora_r": lora_r, "dtype": dtype, "ppo_epochs": 1}
    return Case(model, *prompt, sizes | settings)


FIT = {
    "embedded, fp32": _case("embedded", (60, 140), 32, 48, 16, "float32", ppo_epochs=2),
    "embedded, bf16, 2 mini-batches": _case("embedded", (40, 80), 64, 32, 8, "bfloat16", ppo_epochs=2, mini_batches=2),
    "tiny, all weights": _case("tiny", (32, 64), 64, 32, 0, "float32", ppo_epochs=2),
    "llama_30m, fp32": _case("llama_30m", (48, 80), 16, 48, 8, "float32"),
    "llama_30m, bf16, rloo": _case(
        "llama_30m", (100, 200), 32, 24, 32, "bfloat16", advantage_estimator="rloo", responses_per_prompt=4
    ),
    "llama_100m, fp32, long prompts": _case("llama_100m", (200, 300), 4, 16, 16, "float32", value_backbone="shared"),
    "smollm2, fp32": _case("smollm2", (30, 60), 4, 32, 16, "float32"),
    "smollm2, bf16, top-k": _case("smollm2", (60, 120), 12, 16, 16, "bfloat16", top_k=50, top_p=0.95),
}
CHECK = {
    "embedded, fp32, 4 mini-batches": _case("embedded", (50, 100), 64, 24, 4, "float32", ppo_epochs=2, mini_batches=4),
    "llama_30m, fp32, rloo, long responses": _case(
        "llama_30m", (96, 160), 8, 96, 32, "float32", advantage_estimator="rloo", responses_per_prompt=4
    ),
    "llama_30m, all weights": _case("llama_30m", (32, 64), 16, 32, 0, "float32"),
    "llama_100m, bf16": _case("llama_100m", (64, 128), 16, 40, 8, "bfloat16"),
    "smollm2, fp32, shared": _case("smollm2", (60, 100), 8, 48, 64, "float32", value_backbone="shared", mini_batches=2),
    "smollm2, bf16, top-k, long prompts": _case("smollm2", (100, 200), 8, 24, 4, "bfloat16", top_k=50, top_p=0.95),
}
CASES = FIT | CHECK

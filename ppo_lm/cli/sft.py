"""`ppo-lm sft`: supervised fine-tuning, from demonstrations."""

from __future__ import annotations

from ppo_lm.cli.stages import read_run
from ppo_lm.config import SFTConfig


def run(arguments: list[str], prog: str) -> None:
    """Fine-tune the model that the options describe, or resume a run."""
    request = read_run(SFTConfig, arguments, prog, "Supervised fine-tuning of a language model.", "sft")
    from ppo_lm.sft import run_sft

    run_sft(request.config, **request.options())

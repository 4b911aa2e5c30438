"""Stage one: supervised fine-tuning."""

from ppo_lm.sft.sft_trainer import completion_loss, train_sft
from ppo_lm.sft.stage import run_sft

__all__ = ["completion_loss", "run_sft", "train_sft"]

"""Stage one: supervised fine-tuning."""

from ppo_lm.sft.sft_trainer import Demonstration, completion_loss, train_sft

__all__ = ["Demonstration", "completion_loss", "train_sft"]

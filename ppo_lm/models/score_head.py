"""A linear head from a hidden state to one number."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ppo_lm.errors import ModelError, first_line
from ppo_lm.models.complete import check_finite

HEAD_FILE = "head.safetensors"


class ScoreHead(nn.Module):
    """w·h + b in fp32; by default, the weight is drawn from N(0, 1/√(H+1)) and the bias is 0 (2403.17031)."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.normal_(self.linear.weight, std=(hidden_size + 1) ** -0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., H) → (...), in the head's dtype (fp32)."""
        return self.linear(hidden.to(self.linear.weight.dtype)).squeeze(-1)

    @torch.no_grad()
    def start_from(self, other: ScoreHead, mean: float, std: float) -> None:
        """Copy `other`'s weights, shifted and scaled so that this head gives (other − mean) / std."""
        self.linear.weight.copy_(other.linear.weight / std)
        self.linear.bias.copy_((other.linear.bias - mean) / std)

    def save(self, folder: Path) -> None:
        """Write the weights to `HEAD_FILE` in `folder`."""
        save_file(
            {name: value.cpu().contiguous() for name, value in self.linear.state_dict().items()}, folder / HEAD_FILE
        )

    def load(self, folder: Path) -> None:
        """Load what `save` wrote. Raises `ModelError` if the file is damaged or of another model."""
        try:
            weights = load_file(folder / HEAD_FILE)
            self.linear.load_state_dict(weights)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{folder / HEAD_FILE} is not the head of this model: {first_line(error)}") from error
        check_finite(weights.items(), str(folder / HEAD_FILE))

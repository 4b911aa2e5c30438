"""A run with an optimiser and a schedule of the user's own, paused and resumed."""

import pytest

from ppo_lm.errors import CheckpointError, RunPaused
from tests.ppo_trainer.conftest import PROMPTS, Fails, end_alike, make

FILE = """
import torch


def half_nadam(weights, lr, eps):
    return torch.optim.NAdam(weights, lr=lr * {factor}, eps=eps)


def fall(share):
    return 1 - share**2
"""


def test_it_resumes_bit_for_bit_and_only_with_the_same_code(folder, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(FILE.format(factor=0.5))
    settings = dict(optimiser=f"{own}:half_nadam", lr_schedule=f"{own}:fall", steps=3, eval_prompts=0, eval_every=0)
    make(folder, tmp_path / "whole", Fails(), **settings).train(PROMPTS)
    with pytest.raises(RunPaused):
        make(folder, tmp_path / "parts", Fails(at=3), **settings).train(PROMPTS)
    own.write_text(FILE.format(factor=0.25))
    with pytest.raises(CheckpointError, match="of the optimiser changed.*of the learning rate schedule changed"):
        make(folder, tmp_path / "parts", Fails(), **settings).train(PROMPTS, resume=tmp_path / "parts")
    own.write_text(FILE.format(factor=0.5))
    make(folder, tmp_path / "parts", Fails(), **settings).train(PROMPTS, resume=tmp_path / "parts")
    end_alike(tmp_path / "parts", tmp_path / "whole")

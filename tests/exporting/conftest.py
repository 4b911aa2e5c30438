"""A finished run of a small model, with the trainer that made it."""

import re

import pytest

from tests.ppo_trainer.conftest import PROMPTS, length_reward, make

SETTINGS = dict(steps=2, eval_prompts=2, eval_every=0, lora_r=4, value_learning_rate=5e-2)


@pytest.fixture(scope="session")
def trained(folder, tmp_path_factory):
    """(the trainer, the folder of its run)."""
    out = tmp_path_factory.mktemp("export") / "run"
    trainer = make(folder, out, length_reward, **SETTINGS)
    trainer.train(PROMPTS, quiet=True)
    return trainer, out


def run_section(card, part, folder):
    """What the Python of a part's section in a model card defines."""
    section = card.partition(f"\n### {part}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
    names = {"folder": str(folder)}
    for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(code, names)
    return names

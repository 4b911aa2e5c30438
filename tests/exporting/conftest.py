"""A finished run of a small model, with the trainer that made it."""

import json
import re

import pytest

from ppo_lm.cli.main import main
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


@pytest.fixture(scope="session")
def named(folder, tmp_path_factory):
    """The folders of a PPO run whose data and rewards are named in its settings, by kind of reward: "model", a reward
    model, or "function", in a file."""
    place = tmp_path_factory.mktemp("named")
    rows = [
        {"prompt": f"My boss {n} TL;DR:", "chosen": f"I quit {n}.", "rejected": f"No {n}.", "goal": n % 7}
        for n in range(24)
    ]
    data, function = place / "data.jsonl", place / "length.py"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    function.write_text(
        "def near(completions, goal):\n    return [-abs(len(c) - g) for c, g in zip(completions, goal)]\n"
    )
    small = [f"--model_name={folder}", "--lora_r=4", "--device=cpu", "--batch_size=4"]
    steep = ["--learning_rate=0.05", "--value_learning_rate=0.05"]
    reward = ["--held_out=4", "--max_steps=2", f"--preferences={data}", f"--output_dir={place / 'reward'}"]
    main(["reward", *small, *reward, steep[0]])
    runs = {}
    for kind, scored in {"model": str(place / "reward"), "function": f"{function}:near"}.items():
        runs[kind] = place / f"by {kind}'s run"  # a path that shells and Hydra would take apart
        options = ["--steps=2", "--mini_batches=2", "--eval_prompts=2", "--samples_every=1"]
        main(
            ["train", *small, *steep, *options, f"--prompts={data}", f"--reward={scored}", f"--output_dir={runs[kind]}"]
        )
    return runs

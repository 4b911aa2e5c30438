"""Every part that CONTRIBUTING.md shows how to add, added as it says: one file, and no other."""

import pytest
import torch
from transformers import SeedOssConfig, SeedOssForCausalLM

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.errors import ConfigError
from ppo_lm.fast.accelerate import Accelerated, accelerate
from ppo_lm.fast.blocks import FAMILIES
from tests.conftest import SMALL
from tests.docs.pages import blocks as documented

pytestmark = pytest.mark.fast

PROMPTS = [f"SUBREDDIT: r/advice TITLE: My boss number {n} TL;DR:" for n in range(4)]
MOST_LINES = 14  # of a block, blank ones and imports included


def by_length(completions):
    return [len(completion) / 10 for completion in completions]


@pytest.fixture
def blocks(tmp_path) -> dict[str, str]:
    """The code blocks of the page, by the file that their first line names, written to `tmp_path`."""
    found = {}
    for block in documented("CONTRIBUTING.md", "python"):
        first, _, code = block.code.partition("\n")
        name = first.removeprefix("# ").removeprefix("in ")
        assert len(code.splitlines()) <= MOST_LINES
        found[name] = code
        if "/" not in name:
            (tmp_path / name).write_text(code, encoding="utf-8")
    return found


@pytest.fixture
def train(folder, blocks, tmp_path):
    """Train for a few steps with a part named from its file."""

    def run(score=by_length, steps=2, **parts):
        """`parts`: settings that name a part in one of the files."""
        named = {setting: f"{tmp_path}/{spec}" for setting, spec in parts.items()}
        if "recorders" in named:
            named["recorders"] = [named["recorders"]]
        config = PPOConfig(
            model_name=folder,
            batch_size=4,
            lora_r=4,
            top_k=0,
            top_p=1.0,
            steps=steps,
            device="cpu",
            eval_prompts=0,
            **named,
        )
        trainer, rows = PPOTrainer(config, reward=None if "reward" in parts else score), []
        step = trainer.ppo_step
        trainer.ppo_step = lambda *arguments: rows.append(step(*arguments)) or rows[-1]
        trainer.train(PROMPTS, quiet=True)
        return rows, trainer

    return run


def test_each_seam_has_a_block_and_each_block_is_one_file(blocks):
    assert list(blocks) == [
        "my_estimator.py",
        "my_loss.py",
        "my_optimiser.py",
        "my_schedule.py",
        "my_reward.py",
        "my_engine.py",
        "my_recorder.py",
        "ppo_lm/fast/blocks.py",
    ]
    for name in blocks:
        print(f"to add a part like this one, one file is touched: {name}")  # `pytest -rP` shows it


def test_an_estimator(train):
    rows, trainer = train(advantage_estimator="my_estimator.py:REINFORCE")
    assert trainer.roles.value is None and len(rows) == 2 and "value_loss" not in rows[0]
    assert rows[0]["policy_grad_norm"] > 0


def test_a_loss(train):
    rows, _ = train(policy_loss="my_loss.py:UNCLIPPED")
    assert "far" in rows[0] and "clip_fraction" not in rows[0] and rows[0]["policy_grad_norm"] > 0


def test_an_optimiser(train):
    _, trainer = train(optimiser="my_optimiser.py:adafactor")
    optimiser = trainer.model_trainer.policy_optimiser
    assert isinstance(optimiser.inner, torch.optim.Adafactor) and optimiser.inner.state


def test_a_schedule(train):
    rows, _ = train(lr_schedule="my_schedule.py:two_levels", steps=3)
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-5, 1e-6, 1e-6])


def test_a_reward(train):
    rows, _ = train(reward="my_reward.py:Brevity")
    words = [float(len(text.split())) for text in rows[0]["generated_texts"]]
    assert rows[0]["rewards"] == [-count for count in words]
    assert rows[0]["reward/brevity/words"] == pytest.approx(sum(words) / len(words))


def test_an_engine(train):
    rows, trainer = train(engine="my_engine.py:Parrot")
    tokenizer = trainer.base.tokenizer
    last = [tokenizer.decode(tokenizer(prompt)["input_ids"][-1:]) for prompt in PROMPTS]
    assert set(rows[0]["generated_texts"]) == set(last)
    assert rows[0]["ended"] == 1.0 and rows[0]["entropy"] > 0  # which a scoring pass found


def test_a_recorder(train):
    rows, _ = train(lambda completions: [-1.0] * len(completions), steps=5, recorders="my_recorder.py:StopEarly")
    assert len(rows) == 1


def test_a_family(blocks, monkeypatch):
    monkeypatch.setattr(FAMILIES, "_parts", dict(FAMILIES._parts))
    torch.manual_seed(0)
    network = SeedOssForCausalLM(SeedOssConfig(**SMALL)).eval()
    assert "'seed_oss' is not one of" in accelerate(network)
    exec(blocks["ppo_lm/fast/blocks.py"], {})
    assert isinstance(accelerate(network), Accelerated)


def test_a_missing_part_is_reported_in_one_sentence_before_any_model_loads(tmp_path, blocks):
    config = PPOConfig(
        model_name="nobody/none", policy_loss=f"{tmp_path}/my_loss.py:Nothing", engine="slot", recorders=["screem"]
    )
    with pytest.raises(
        ConfigError, match=r"3 problems(.|\n)*no function 'Nothing'(.|\n)*did you mean 'slots'(.|\n)*'screen'"
    ):
        PPOTrainer(config)

"""The scripts before and after of the pages for users of TRL, run with small numbers."""

import json

import pytest
import torch
from transformers import AutoTokenizer, LlamaForSequenceClassification

from ppo_lm.base_setup import EMBEDDED_MODEL
from tests.conftest import make_base
from tests.docs.pages import blocks

OURS = {
    "from_trl.md": {"steps=157": "steps=1", "batch_size=64": "batch_size=4", "max_new_tokens=53": "max_new_tokens=6"},
    "from_grpo.md": {"steps=100": "steps=1, batch_size=4", "max_new_tokens=64": "max_new_tokens=6"},
}
ON_A_CPU = 'use_cpu=True, bf16=False, report_to="none", output_dir="my-policy"'
THEIRS = {
    "from_trl.md": {
        'output_dir="my-policy"': ON_A_CPU,
        "total_episodes=10048": "total_episodes=8",
        "per_device_train_batch_size=16": "per_device_train_batch_size=2",
        "gradient_accumulation_steps=4": "gradient_accumulation_steps=2",
        "response_length=53": "response_length=6",
    },
    "from_grpo.md": {
        'output_dir="my-policy"': ON_A_CPU,
        "max_steps=100": "max_steps=1",
        "max_completion_length=64": "max_completion_length=6",
    },
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the script before (0) or after (1) of a page where its files are, with some of its text replaced."""
    base, files = make_base(), {}
    torch.manual_seed(0)
    files["my-sft-model"] = files["my-model"] = base.network
    files["my-reward-model"] = LlamaForSequenceClassification(
        base.network.config.__class__(**{**base.network.config.to_dict(), "num_labels": 1})
    )
    for name, network in files.items():
        network.save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(EMBEDDED_MODEL).save_pretrained(tmp_path / name)
    rows = [{"prompt": f"SUBREDDIT: r/advice TITLE: My boss number {n} TL;DR:"} for n in range(24)]
    (tmp_path / "posts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)

    def run(page, which, changes):
        code = blocks(f"docs/{page}", "python")[which].code
        for old, new in changes.items():
            assert old in code
            code = code.replace(old, new)
        exec(compile(code, f"{page}[{which}]", "exec"), {"__name__": "script"})

    return run


@pytest.mark.parametrize("page", OURS)
def test_our_script_trains_a_policy(run, page, tmp_path):
    run(page, 1, OURS[page])
    assert (tmp_path / "my-policy" / "adapter" / "adapter_config.json").is_file()
    assert (tmp_path / "my-policy" / "merged" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("page", THEIRS)
def test_their_script_trains_a_policy(run, page, tmp_path):
    run(page, 0, THEIRS[page])
    assert list((tmp_path / "my-policy").glob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize(("mini_batches", "accumulated", "updates"), [(2, 1, 2), (1, 4, 1), (2, 4, 1), (4, 4, 1)])
def test_what_the_page_says_of_their_updates(run, monkeypatch, mini_batches, accumulated, updates):
    """Optimiser steps per pass over a batch of 8, none of which is clipped."""
    counts, step, clip = {"steps": 0, "clips": 0}, torch.optim.AdamW.step, torch.nn.utils.clip_grad_norm_

    def count_step(self, *arguments, **options):
        counts["steps"] += 1
        return step(self, *arguments, **options)

    def count_clip(*arguments, **options):
        counts["clips"] += 1
        return clip(*arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", count_step)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", count_clip)
    changes = {
        'stop_token="eos",': f"num_mini_batches={mini_batches}, num_ppo_epochs=1, max_grad_norm=1e-6,",
        "per_device_train_batch_size=16": f"per_device_train_batch_size={8 // accumulated}",
        "gradient_accumulation_steps=4": f"gradient_accumulation_steps={accumulated}",
        "response_length=53": "response_length=6",
    }
    run("from_trl.md", 0, {**THEIRS["from_trl.md"], **changes})
    assert counts == {"steps": updates, "clips": 0}

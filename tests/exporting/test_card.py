"""The model card: what a run recorded, and nothing of it is markup."""

import json
import shlex
import shutil
from dataclasses import asdict

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from ppo_lm.cli.options import read_config
from ppo_lm.cli.train import make_parser
from ppo_lm.config import ExportConfig, PPOConfig
from ppo_lm.exporting import run_export
from ppo_lm.exporting.card import make_card
from ppo_lm.exporting.command import repeat_command
from ppo_lm.exporting.measured import measured
from ppo_lm.exporting.places import Places
from ppo_lm.exporting.source import read_source
from ppo_lm.models.model_card import CARD
from ppo_lm.report import read_run_folder

pytestmark = pytest.mark.fast
HOSTILE = "x`</code><script>alert(1)</script>\n\n# Owned\n---\n![i](http://e.vil/p.png) | a | \x1b[31m{{7*7}}\u202e"
TITLES = ["Loading", "Data and reward", "Settings", "Learning curve", "Evaluation", "Limits", "Environment"]


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the run, whose files a test may change, without its tokens."""
    return shutil.copytree(trained[1], tmp_path / "run", ignore=shutil.ignore_patterns("tokens", "export*"))


def rewrite(file, change):
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def card_of(run, parts=("adapter",), repository=None):
    return make_card(read_source(str(run)), Places(repository, list(parts)), run, "it")


def test_a_card_says_what_was_trained_on_what_and_how_well_it_went(copied):
    made = run_export(ExportConfig(run=str(copied)))
    card = (made.folder / CARD).read_text()
    html = MarkdownIt("commonmark").enable("table").render(ModelCard(card).text)
    assert [title for title in TITLES if f"<h2>{title}</h2>" in html] == TITLES
    rows = [json.loads(line) for line in (copied / "metrics.jsonl").read_text().splitlines()]
    before, after = [row for row in rows if row.get("evaluation") == "sampled"]
    assert f"<td>score</td>\n<td>{before['score']:.4g}</td>\n<td>{after['score']:.4g}</td>" in html
    results = ModelCard(card).data.eval_results
    assert {r.metric_name: r.metric_value for r in results}["score, sampled"] == after["score"]
    assert "1 held out" in html and "learning_rate: 0.01" in html and "transformers: <code>" in html
    assert "means over 1 held-out example only" in html
    assert "Only the reward that it was trained on was measured" in html
    found = read_run_folder(copied)["health"]
    said = found or ["finds no problem; most of its checks start at step 10"]
    assert all(text.replace("<", "&lt;")[:40] in html for text in said)


def test_the_monitor_and_the_doctor_speak_in_the_limits(copied):
    rows = [json.loads(line) for line in (copied / "metrics.jsonl").read_text().splitlines()]
    sampled = [row for row in rows if row.get("evaluation") == "sampled"]
    for row, score, monitor in zip(sampled, (0.0, 1.0), (0.7, 0.25)):
        row.update(score=score, monitor=monitor)
    for row in rows:
        if "evaluation" not in row:
            row["reward/length_reward"] = row["score"]
    (copied / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rewrite(copied / "data_report.json", lambda reports: reports[0].update(leaked=1, held_out=40))
    limits = card_of(copied).partition("## Limits")[2]
    assert "the reward went from 0.000 to 1.000" in limits and "from 0.700 to 0.250: the policy has learnt" in limits
    assert "1 of the 40 held-out examples have a prompt" in limits and "only: read nothing" not in limits


def test_only_what_was_measured_is_claimed(copied):
    file = copied / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]

    def claims(changed):
        file.write_text("".join(json.dumps(row) + "\n" for row in changed))
        return card_of(copied)

    later = {"step": 99, "evaluation": "sampled", "score": 99.0}  # of steps after the checkpoint, which were lost
    assert claims([*rows, later]) == claims(rows)
    first = [row for row in rows if row["step"] == 0]
    assert "| sampled | step 0 |\n| --- | --- |\n" in claims(first)
    only = "Only the reward that it was trained on was measured"
    assert only in claims(first) and only not in claims([{**row, "monitor": 0.5} for row in first])
    unmeasured = claims([row for row in rows if "evaluation" not in row])
    assert only not in unmeasured and "It was not evaluated on held-out data" in unmeasured


def test_the_limits_name_what_ended_the_responses(copied):
    assert "stop\\_strings" not in card_of(copied) and "could not end" not in card_of(copied)
    rewrite(copied / "config.yaml", lambda settings: settings.update(stop_strings=["\n\n", "END"], min_new_tokens=3))
    limits = card_of(copied).partition("## Limits")[2]
    assert r"was cut before `'\n\n'` or `'END'` (stop\_strings)" in limits
    assert "could not end before 3 tokens" in limits


def test_hostile_texts_are_texts(copied):
    rewrite(copied / "data_report.json", lambda reports: reports[0].update(source=HOSTILE))
    rewrite(copied / "environment.json", lambda environment: environment.update({HOSTILE: HOSTILE * 1000}))
    rewrite(copied / "config.yaml", lambda settings: settings.update(monitor=HOSTILE, prompts=HOSTILE))
    text = make_card(read_source(str(copied)), Places(None, ["adapter", "merged", "value"]), copied, HOSTILE)
    card = ModelCard(text)
    assert card.data.model_name == HOSTILE
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.text)
    assert "<script" not in html and "<img" not in html.replace('<img src="learning_curve.png"', "")
    assert html.count("<h1>") == 1 and "Owned</h1>" not in html.replace("# Owned", "")
    assert "<h2>Owned" not in html and html.count("<h2>") == len(TITLES)
    assert "\x1b" not in card.text and "\u202e" not in card.text
    assert len(text) < 40_000


def test_the_command_repeats_the_settings():
    config = PPOConfig(
        model_name="Qwen/Qwen3-0.6B-Base",
        reward=["a.py:f", "b.py:g h"],
        reward_weights=[1.0, -0.5],
        missing_eos_score=-3.0,
        learning_rate=3e-7,
        prompts='it\'s "mine".jsonl',
        save_merged=False,
        whiten_advantages=True,
        output_dir="runs/x",
    )
    settings = [
        {"name": name, "value": value, "default": value == getattr(PPOConfig(), name)}
        for name, value in asdict(config).items()
    ]
    command = shlex.split(repeat_command("train", settings).replace("\\\n", ""))
    assert command[:2] == ["ppo-lm", "train"]
    again = read_config(make_parser("ppo-lm train"), [*command[2:], "--output_dir", "runs/x"])
    assert again == config


def test_a_run_repeats_from_its_card(trained):
    settings = read_run_folder(trained[1])["settings"]
    command = shlex.split(repeat_command("train", settings).replace("\\\n", ""))
    again = read_config(make_parser("ppo-lm train"), command[2:])
    assert {**asdict(again), "output_dir": None} == {**asdict(trained[0].config), "output_dir": None}


def test_evaluations_are_paired_by_kind():
    made = [
        {"step": 0, "name": "before", "means": {"loss": 2.0}},
        {"step": 9, "name": "after", "means": {"loss": None}},
        {"step": 0, "name": "near_greedy", "means": {"score": 1.0}},
    ]
    held_out, greedy = measured(made)
    assert (held_out.kind, held_out.steps, held_out.change("loss")) == ("held out", (0, 9), None)
    assert (greedy.kind, greedy.change("score")) == ("near greedy", None)


def test_the_base_is_named_if_the_hub_has_it(copied):
    assert ModelCard(card_of(copied)).data.base_model is None  # a folder of this machine
    for adapter in (copied / "adapter", *copied.glob("checkpoints/*/adapter")):
        file = adapter / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": "Qwen/Qwen3-0.6B-Base"}))
    data = ModelCard(card_of(copied)).data
    assert (data.base_model, data.base_model_relation) == ("Qwen/Qwen3-0.6B-Base", "adapter")
    assert ModelCard(card_of(copied, ["adapter", "merged"])).data.base_model_relation == "finetune"
    served = "vllm serve Qwen/Qwen3-0.6B-Base --enable-lora --max-lora-rank 8 --lora-modules"
    assert f"{served} it=adapter\n" in card_of(copied)
    assert f"{served} it=me/it\n" in card_of(copied, repository="me/it")

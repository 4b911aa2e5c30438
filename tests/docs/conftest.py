"""The folder that a reader of the documentation works in."""

import json
import shutil
from pathlib import Path

import pytest

from ppo_lm.cli.main import main
from tests.docs.pages import CHECKOUT

POSTS = [f"SUBREDDIT: r/advice TITLE: My boss number {n} POST: My boss yelled at me. TL;DR:" for n in range(20)]
FAILING = """
calls = []

def score(completions):
    calls.append(completions)
    if len(calls) > 3:
        raise OSError("the judge cannot be reached")
    return [float(len(text)) for text in completions]
"""


def write_rows(file: Path, **columns: str) -> None:
    rows = [{"prompt": post, **columns} for post in POSTS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A checkout with the data that the pages assume, and in `templates/` a finished and a paused run."""
    place = tmp_path_factory.mktemp("reader")
    for name in ("configs", "examples", "ppo_lm", "main.py", "config.py", "ppo_trainer.py"):
        (place / name).symlink_to(CHECKOUT / name)
    write_rows(place / "posts.jsonl")
    write_rows(place / "demonstrations.jsonl", completion=" My boss yelled at me.")
    (place / "failing.py").write_text(FAILING)
    for name, steps, reward in (("finished", 2, "length_target(words=4)"), ("paused", 9, f"{place}/failing.py:score")):
        options = dict(prompts=place / "posts.jsonl", reward=reward, steps=steps, output_dir=place / "templates" / name)
        small = dict(batch_size=4, eval_prompts=2, max_new_tokens=4, model_name="embedded")
        try:
            main(["train", *[f"--{option}={value}" for option, value in (options | small).items()]])
        except SystemExit as ended:
            assert (name, ended.code) == ("paused", 75)
    return place


@pytest.fixture
def reader(prepared, monkeypatch) -> Path:
    """The same as the current folder, without what the last test wrote to `runs/`."""
    monkeypatch.chdir(prepared)
    shutil.rmtree(prepared / "runs", ignore_errors=True)
    return prepared

"""Every block of code in the documentation runs: Python is executed, settings are read.

The commands are in test_documented_commands.py."""

import json
import sys
from pathlib import Path

import pytest

from ppo_lm.cli.main import main
from ppo_lm.config.stages import STAGES
from tests.docs.pages import CHECKOUT, PAGES, SHELL, blocks

TESTED_ELSEWHERE = {  # page → the test that does more with its Python than execute it
    "CONTRIBUTING.md": "tests/test_contributing.py",  # trains with the part that each block adds
    "docs/from_trl.md": "tests/examples/test_migration_scripts.py",  # runs the scripts of both libraries
    "docs/from_grpo.md": "tests/examples/test_migration_scripts.py",
}
STANDS_IN = {  # page → what the page says, what is executed instead, and why
    "README.md": [("PPOConfig()", 'PPOConfig(model_name="embedded")', "its model is on the hub")],
    "docs/training.md": [
        ('"runs/sft/merged"', '"runs/sft/merged", steps=1, batch_size=4, eval_prompts=2', "a whole run takes too long"),
    ],
}
NOT_CODE = ("text",)  # diagrams, and what a program printed
READS_SETTINGS = [*STAGES, "evaluate", "generate", "collect"]


def test_each_block_is_in_a_language_that_some_test_runs():
    known = {*SHELL, *NOT_CODE, "python", "yaml", "json", "jsonl"}
    assert {block.language for page in PAGES for block in blocks(page)} <= known
    assert all((CHECKOUT / test).is_file() for test in TESTED_ELSEWHERE.values())


@pytest.mark.parametrize("page", [page for page in PAGES if page not in TESTED_ELSEWHERE and blocks(page, "python")])
def test_the_python_of_a_page_runs(page, reader, monkeypatch):
    """In order, in one namespace, as a reader would paste it."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # `config.py` replaces it
    monkeypatch.setattr("sys.path", [str(reader), *sys.path])
    namespace = {"__name__": "page"}
    waiting = list(STANDS_IN.get(page, []))
    for block in blocks(page, "python"):
        code = block.code
        for stand_in in [stand_in for stand_in in waiting if stand_in[0] in code]:
            code = code.replace(*stand_in[:2])
            waiting.remove(stand_in)
        exec(compile("\n" * (block.line - 1) + code, page, "exec"), namespace)  # with the page's line numbers
    assert not waiting, "the page has changed"


@pytest.mark.fast
def test_json_of_the_pages_can_be_read():
    for block in [block for page in PAGES for block in blocks(page, "json", "jsonl")]:
        for text in block.code.splitlines() if block.language == "jsonl" else [block.code]:
            json.loads(text)


def problems_with(settings: str, reader: Path, capsys) -> list[str]:
    """What each command says to a file of settings; empty if one of them takes it."""
    (reader / "settings.yaml").write_text(settings)
    answers = []
    for command in READS_SETTINGS:
        with pytest.raises(SystemExit) as ended:
            main([command, "--config", "settings.yaml", "--print_config"])
        if ended.value.code == 0:
            return []
        answers.append(f"{command}: {capsys.readouterr().err}")
    return answers


@pytest.mark.fast
def test_settings_of_the_pages_are_taken_by_a_command(reader, capsys):
    for block in [block for page in PAGES for block in blocks(page, "yaml")]:
        assert not problems_with(block.code, reader, capsys), block


@pytest.mark.fast
def test_wrong_settings_are_noticed(reader, capsys):
    assert not problems_with("steps: 3\nreward: sentiment\n", reader, capsys)
    assert len(problems_with("stepz: 3\n", reader, capsys)) == len(READS_SETTINGS)

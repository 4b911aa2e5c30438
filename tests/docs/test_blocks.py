"""Every block of code in the documentation runs: Python is executed, settings are read. test_commands.py has the
commands."""

import json
import sys

import pytest
import yaml

from ppo_lm.cli.main import main
from ppo_lm.config.stages import STAGES
from tests.docs.pages import CHECKOUT, PAGES, SHELL, blocks

TESTED_ELSEWHERE = {  # page → the test that does more with its Python than execute it
    "CONTRIBUTING.md": "tests/test_contributing.py",  # trains with the part that each block adds
}
STANDS_IN = {  # page → what the page says, what is executed instead, and why
    "README.md": [("PPOConfig()", 'PPOConfig(model_name="embedded")', "its model is on the hub")],
    "docs/training.md": [
        ('"runs/sft/merged"', '"runs/sft/merged", steps=1, batch_size=4, eval_prompts=2', "a whole run takes too long"),
    ],
}
NOT_CODE = ("text",)  # diagrams, and what a program printed
READ_BY = [*STAGES, "evaluate", "generate", "collect"]  # commands with files of settings


def test_each_block_is_in_a_language_that_some_test_runs():
    known = {*SHELL, *NOT_CODE, "python", "yaml", "json", "jsonl"}
    assert {block.language for page in PAGES for block in blocks(page)} <= known
    assert all((CHECKOUT / test).is_file() for test in TESTED_ELSEWHERE.values())


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in TESTED_ELSEWHERE and blocks(page, "python")]
)
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
@pytest.mark.parametrize("block", [block for page in PAGES for block in blocks(page, "json", "jsonl")], ids=str)
def test_json_of_a_page_can_be_read(block):
    for text in block.code.splitlines() if block.language == "jsonl" else [block.code]:
        json.loads(text)


@pytest.mark.fast
@pytest.mark.parametrize("block", [block for page in PAGES for block in blocks(page, "yaml")], ids=str)
def test_settings_of_a_page_are_taken_by_a_command(block, reader, capsys):
    assert isinstance(yaml.safe_load(block.code), dict)
    (reader / "settings.yaml").write_text(block.code)
    answers = []
    for command in READ_BY:
        with pytest.raises(SystemExit) as ended:
            main([command, "--config", "settings.yaml", "--print_config"])
        if ended.value.code == 0:
            return
        answers.append(f"{command}: {capsys.readouterr().err}")
    pytest.fail("\n".join(answers))

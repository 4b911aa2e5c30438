"""Every command in the README and the docs is one that the command line takes."""

import itertools
import re
import shlex
from pathlib import Path

import pytest

import ppo_lm
from ppo_lm.cli.main import main
from ppo_lm.config import PPOConfig
from ppo_lm.config.files import dump_settings

pytestmark = pytest.mark.fast

CHECKOUT = Path(ppo_lm.__file__).parents[1]
PAGES = [CHECKOUT / "README.md", CHECKOUT / "configs" / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
CODE = re.compile(r"```\w*\n(.*?)```|`([^`\n]+)`", flags=re.DOTALL)
COMMAND = re.compile(r"(?:uv run )?(main\.py|ppo-lm +[a-z-]+)((?: .*)?)")
OF_NO_RUN = ("completion", "build-embedded")
END = (">", "|")


def commands(page: Path) -> list[list[str]]:
    """The arguments of each `ppo-lm` command with options in the code of a page, `main.py` being `ppo-lm train`."""
    found = []
    for block, inline in CODE.findall(page.read_text(encoding="utf-8")):
        for line in re.sub(r"\\\n\s*", "", block or inline).splitlines():  # a backslash continues a line
            match = COMMAND.fullmatch(line.strip())
            options = shlex.split(match[2], comments=True) if match else []
            if match and options:
                command = match[1].split()[-1].replace("main.py", "train")
                taken = itertools.takewhile(lambda option: option not in END, options)
                found.append([command, *(option for option in taken if option != "...")])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_the_commands_of_a_page_are_taken(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(CHECKOUT / "configs")
    (tmp_path / "runs" / "embedded").mkdir(parents=True)
    (tmp_path / "runs" / "embedded" / "config.yaml").write_text(dump_settings(PPOConfig()))
    for command, *arguments in commands(page):
        if command in OF_NO_RUN or "--resume" in arguments:
            continue
        if command == "config":
            main([command, *arguments])
            continue
        with pytest.raises(SystemExit) as ended:
            main([command, *arguments, "--print_config"])
        assert ended.value.code == 0, f"{command} {arguments}: {capsys.readouterr().err}"


def test_there_are_commands_to_look_at():
    assert sum(len(commands(page)) for page in PAGES) >= 20

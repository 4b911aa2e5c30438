"""Every command in the documentation is one that its program takes.

A `ppo-lm` command with settings is read to the end, its files of settings included, and `--resume` opens a real paused
run; one without settings is executed. Commands that no test runs are in NOT_CHECKED and NOT_EXECUTED, with the reason.
"""

import argparse
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from ppo_lm.cli.commands import parser_of
from ppo_lm.cli.main import main
from ppo_lm.cli.parser import Parser
from ppo_lm.cli.stages import read_run
from tests.docs.pages import CHECKOUT, PAGES, SHELL, blocks, commands, inline_code

NOT_CHECKED = {  # program → why no test runs it
    "pip": "installs from a package registry",
    "uvx": "installs from a package registry",
    "uv": "tests/test_wheel.py builds the wheel and installs it",
    "git": "clones from a server",
    "jq": "reads what a command printed",
    "cat": "writes the file of a page that test_start.py runs",
    "python": "runs the file of a page that test_start.py runs",
    "ruff": ".ci/run runs it",
    "pyright": ".ci/run runs it",
}
NOT_EXECUTED = {  # command without settings → why only its options are read
    "build-embedded": "trains the model that ships with the package, for twenty minutes",
}
OURS = ("uv", "ppo-lm", "main.py")  # what a command in the text, outside a block, starts with
BEFORE_A_PROGRAM = re.compile(r"([A-Z_]+=\S* |unshare -rm |uv run (--isolated |(--group|--with|--extra) [\w-]+ )*)*")
RUN = re.compile(r"(runs/[\w-]+|RUN|FOLDER)(?=/|$)")  # what pages call the folder of a run


class Parsed(Exception):
    """A program has read its options."""


@contextmanager
def stops_after_its_options(monkeypatch) -> Iterator[None]:
    """In the block, a program ends once it has read its options, which it must do."""

    def then_stop(parse):
        def parse_and_stop(*given):
            parse(*given)
            raise Parsed

        return parse_and_stop

    with monkeypatch.context() as patch:
        for parser, method in ((argparse.ArgumentParser, "parse_args"), (Parser, "parse")):
            patch.setattr(parser, method, then_stop(getattr(parser, method)))
        try:
            yield
        except Parsed:
            return
    pytest.fail("it reads no options")


def check(words: list[str], checker: "Checker") -> None:
    """Raise unless the program takes the command."""
    words = [word for word in takewhile(lambda word: word not in (">", ">>"), words) if word not in ("...", "…")]
    leading = BEFORE_A_PROGRAM.match(" ".join(words) + " ")
    words = words[len(leading[0].split()) :]
    program, arguments = words[0], words[1:]
    if program == "main.py":
        checker.ppo_lm("train", arguments)
    elif program == "ppo-lm":
        checker.ppo_lm(arguments[0], arguments[1:])
    elif program == "torchrun":
        launched = get_args_parser().parse_args(arguments)
        assert (launched.module, launched.training_script) == (True, "ppo_lm")
        checker.ppo_lm(launched.training_script_args[0], launched.training_script_args[1:])
    elif program == "pytest":
        checker.pytest(arguments)
    elif program.endswith(".py"):
        checker.script(CHECKOUT / program, arguments)
    elif program.endswith(".sh"):
        subprocess.run(["bash", "-n", str(CHECKOUT / program)], check=True)
    else:
        assert program in NOT_CHECKED, f"{program}: check it here, or say in NOT_CHECKED why not"


class Checker:
    """How the commands of each program are checked, in the folder of a reader."""

    def __init__(self, place: Path, monkeypatch, capsys, markers: set[str]):
        self.place, self.monkeypatch, self.capsys, self.markers = place, monkeypatch, capsys, markers

    def ppo_lm(self, command: str, arguments: list[str]) -> None:
        """A command with settings is read to the end; another one is executed, on a real run."""
        for argument in arguments:
            self.make_run(argument, "paused" if "--resume" in arguments else "finished")
        if "--resume" in arguments:
            read_run(parser_of(command, "ppo-lm"), arguments)
        elif self.has_settings(command):
            assert self.exit_code(command, *arguments, "--print_config") == 0
        elif command in NOT_EXECUTED:
            with stops_after_its_options(self.monkeypatch):
                main([command, *arguments])
        else:
            assert self.exit_code(command, *arguments) == 0

    def has_settings(self, command: str) -> bool:
        self.capsys.readouterr()
        assert self.exit_code(command, "--help") == 0
        return "--print_config" in self.capsys.readouterr().out

    def exit_code(self, *arguments: str) -> int:
        try:
            main(list(arguments))
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    def make_run(self, argument: str, template: str) -> None:
        """Where an argument names the folder of a run, or a file in it, put one."""
        named = RUN.match(argument)
        if named:
            shutil.rmtree(self.place / named[0], ignore_errors=True)
            shutil.copytree(self.place / "templates" / template, self.place / named[0])

    def script(self, file: Path, arguments: list[str]) -> None:
        """It exists and compiles, and its parser takes the options; nothing else of it runs."""
        compile(file.read_text(encoding="utf-8"), file, "exec")
        if not arguments:
            return
        self.monkeypatch.setattr(sys, "argv", [str(file), *arguments])
        self.monkeypatch.syspath_prepend(str(file.parent))
        with stops_after_its_options(self.monkeypatch):
            runpy.run_path(str(file), run_name="__main__")

    def pytest(self, arguments: list[str]) -> None:
        """Its files and markers exist."""
        options = iter(arguments)
        for option in options:
            if option == "-m":
                assert next(options) in self.markers
            elif not option.startswith("-"):
                assert (CHECKOUT / option).exists()


@pytest.fixture
def checker(reader, monkeypatch, capsys, pytestconfig) -> Checker:
    markers = {line.partition(":")[0] for line in pytestconfig.getini("markers")}
    return Checker(reader, monkeypatch, capsys, markers)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_are_taken(page, checker):
    checked = [words for block in blocks(page, *SHELL) for words in commands(block.code)]
    checked += [words for code in inline_code(page) for words in commands(code) if words[0] in OURS and len(words) > 2]
    for words in checked:
        try:
            check(words, checker)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{' '.join(words)}: {error}{checker.capsys.readouterr().err}")


@pytest.mark.parametrize(
    "wrong",
    [
        "uv run ppo-lm train --stepz 3",
        "uv run ppo-lm train --steps three",
        "uv run ppo-lm train --config configs/none.yaml",
        "ppo-lm train --resume runs/mine --learning_rate 1",
        "ppo-lm report runs/mine --no_such_option",
        "ppo-lm no-such-command",
        "uv run benchmarks/scaling.py --no_such_option",
        "uv run benchmarks/no_such_script.py",
        "uv run pytest -m sluggish",
        "uv run no-such-program",
    ],
)
def test_a_wrong_command_is_noticed(wrong, checker):
    [words] = commands(wrong)
    with pytest.raises((Exception, SystemExit)):
        check(words, checker)


def test_commands_are_read_as_the_shell_reads_them():
    text = "pip install uv && uv run main.py   # the main job\nuv run ppo-lm sft --prompt 'a # b' \\\n    --seed 1\n"
    assert commands(text) == [
        ["pip", "install", "uv"],
        ["uv", "run", "main.py"],
        ["uv", "run", "ppo-lm", "sft", "--prompt", "a # b", "--seed", "1"],
    ]


@pytest.mark.slow
def test_the_profile_of_a_step_finds_the_products(tmp_path):
    """It reads the arguments of our kernels, whose form nothing else fixes."""
    command = [sys.executable, str(CHECKOUT / "benchmarks" / "cpu_step.py"), "--workload=tiny", f"--folder={tmp_path}"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    assert re.search(r"matrix products +│ +\d", printed)
    assert re.search(r"\d+ × \d+ × 688 +│", printed)

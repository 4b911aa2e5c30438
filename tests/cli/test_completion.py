"""What TAB does, in real shells on a pseudo-terminal."""

import contextlib
import fcntl
import io
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ppo_lm.cli.commands import COMMANDS, parser_of
from ppo_lm.cli.completion import SHELLS
from ppo_lm.cli.main import main
from ppo_lm.cli.parser import ConfigParser
from ppo_lm.config.fields import fields_of

FIELDS = {
    command: set(fields_of(parser.config))
    for command in COMMANDS
    if isinstance(parser := parser_of(command, command), ConfigParser)
}
PROMPT = "ready for more: "
STARTS = {  # reading none of the user's files, and asking nothing before a long list
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        "bind 'set completion-query-items 0'; bind 'set page-completions off'; bind 'set enable-bracketed-paste off'",
    ),
    "zsh": (["zsh", "-f", "-i"], "LISTMAX=10000; unset zle_bracketed_paste"),
}
SECONDS = 30  # for an answer


class Shell:
    """A shell on a large terminal, in which `ppo-lm` prints its arguments."""

    def __init__(self, name: str, home: Path):
        command, prepare = STARTS[name]
        self.terminal, its_end = pty.openpty()
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 1000, 300, 0, 0))
        environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(home)}
        self.process = subprocess.Popen(
            command,
            stdin=its_end,
            stdout=its_end,
            stderr=its_end,
            cwd=home,
            env=environment,
            start_new_session=True,
        )
        os.close(its_end)
        self.run(
            f"{prepare}; PS1='{PROMPT[:3]}''{PROMPT[3:]}'; ppo-lm() {{ printf '<%s>' \"$@\"; }}; {SHELLS[name].line}"
        )

    def run(self, line: str) -> str:
        """Type a line and wait for the next prompt. Returns what is shown."""
        os.write(self.terminal, f"{line}\n".encode())
        return self.read_until(lambda shown: re.search(rf"\n[^\n]*{PROMPT}$", shown))

    def complete(self, line: str) -> list[str]:
        """The arguments that `ppo-lm` gets when the TABs in a line have completed them."""
        return re.findall(r"<([^<>]*)>", self.run(line))

    def list_options(self, line: str, expected: set[str]) -> set[str]:
        """The options listed for a line that ends with --; waits until it sees those that are expected."""
        os.write(self.terminal, f"{line}\t\t".encode())
        shown = self.read_until(lambda shown: all(f"--{name} " in shown or f"--{name}\n" in shown for name in expected))
        os.write(self.terminal, b"\x15")  # empties the line
        return set(re.findall(r"(?:^|  )--(\w+)", shown + self.run(""), flags=re.MULTILINE))

    def read_until(self, is_complete: Callable[[str], object]) -> str:
        """What is shown until it is complete, without carriage returns."""
        shown, end = "", time.monotonic() + SECONDS
        while not is_complete(shown):
            ready, _, _ = select.select([self.terminal], [], [], max(end - time.monotonic(), 0))
            assert ready, f"nothing more is shown after {shown!r}"
            shown += os.read(self.terminal, 65536).decode(errors="replace").replace("\r", "")
        return shown

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


@pytest.fixture(params=STARTS, scope="module")
def shell(request, tmp_path_factory) -> Iterator[Shell]:
    name = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed (apt install {name})")
    home = tmp_path_factory.mktemp(name)
    script = Path(SHELLS[name].file.replace("~", str(home)))
    script.parent.mkdir(exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main(["completion", name])
    script.write_text(printed.getvalue())
    (home / "posts.jsonl").touch()
    (home / "runs" / "first").mkdir(parents=True)
    shell = Shell(name, home)
    yield shell
    shell.close()


@pytest.mark.parametrize(
    ("typed", "arguments"),
    [
        ("tra\t", ["train"]),
        ("build\t", ["build-embedded"]),
        ("train --lr_sch\tcos\t", ["train", "--lr_schedule", "cosine"]),
        ("train --steps 5 --reward sent\t", ["train", "--steps", "5", "--reward", "sentiment"]),
        (
            "train --reward sentiment --reward length_\t",
            ["train", *["--reward", "sentiment"], "--reward", "length_target"],
        ),
        ("train --monitor sent\t", ["train", "--monitor", "sentiment"]),
        ("train --advantage_est\trl\t", ["train", "--advantage_estimator", "rloo"]),
        ("train --recorders tensor\t", ["train", "--recorders", "tensorboard"]),
        ("train --prompts po\t", ["train", "--prompts", "posts.jsonl"]),
        ("train --prompts emb\t", ["train", "--prompts", "embedded"]),
        ("train --config emb\t", ["train", "--config", "embedded"]),
        ("train --resume ru\tfi\t", ["train", "--resume", "runs/first/"]),
        ("train --fast --lr_sch\tinv\t", ["train", "--fast", "--lr_schedule", "inverse"]),
        ("train --fast f\t", ["train", "--fast", "false"]),
        ("train --gradient_ch\t--kl_est\tk3", ["train", "--gradient_checkpointing", "--kl_estimator", "k3"]),
        ("report ru\tfi\t --colour_by adv\t", ["report", "runs/first/", "--colour_by", "advantages"]),
        ("evaluate --js\t", ["evaluate", "--json"]),
        ("config eval\t--judge sentim\t", ["config", "evaluate", "--judge", "sentiment"]),
        ("completion z\t", ["completion", "zsh"]),
    ],
)
def test_tab_completes(typed, arguments, shell):
    assert [argument.removesuffix("/") for argument in shell.complete(f"ppo-lm {typed}")] == [
        argument.removesuffix("/") for argument in arguments
    ]


@pytest.mark.parametrize("command", FIELDS)
def test_every_field_is_offered(command, shell):
    listed = shell.list_options(f"ppo-lm {command} --", FIELDS[command])
    assert listed >= FIELDS[command] | {"config", "print_config", "help"}
    known = {option.removeprefix("--") for option in parser_of(command, command)._option_string_actions}
    assert listed <= known


def test_the_script_for_a_shell_that_is_not_known(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["completion", "fish"])
    assert ended.value.code == 2 and "fish" in capsys.readouterr().err

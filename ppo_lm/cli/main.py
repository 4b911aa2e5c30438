"""The command line: finds the module of a command, and turns errors into messages and exit codes."""

from __future__ import annotations

import sys
import textwrap

import ppo_lm
from ppo_lm.cli.commands import COMMANDS, check_processes, module_of
from ppo_lm.cli.output import lasting_output, only_one_speaks
from ppo_lm.config.other_names import did_you_mean
from ppo_lm.errors import EXIT_CODES, UserError
from ppo_lm.signals import end_at_once_on_signals
from ppo_lm.terminal import printable
from ppo_lm.terminal.pinned import readable

USAGE = f"""usage: ppo-lm COMMAND [options]

{chr(10).join(f"  {command:<16}{summary}" for command, summary in COMMANDS.items())}

`ppo-lm COMMAND --help` lists the options of a command, `ppo-lm --version`
prints the version.

If no model is named, sft, reward, value, train and evaluate run the embedded
task, on a toy model that comes with the package and needs no network;
`--config embedded` uses the settings of that task with another model.

{textwrap.fill(f"Exit codes: {EXIT_CODES}", 78)}"""


def main(arguments: list[str] | None = None, prog: str | None = None) -> None:
    """Run a command. A user error ends it with one message and the error's exit code; see docs/resume.md. `prog` is the
    name shown in its usage."""
    with end_at_once_on_signals(), lasting_output(), only_one_speaks():
        try:
            _run(sys.argv[1:] if arguments is None else arguments, prog)
        except UserError as error:
            print(readable(f"error: {error}", sys.stderr), file=sys.stderr)
            raise SystemExit(error.exit_code) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None  # 128 + SIGINT, as in a shell


def _run(arguments: list[str], prog: str | None) -> None:
    command, *options = arguments or [""]
    if command == "help" and options:
        command, options = options[0], ["--help"]
    if command in ("-h", "--help", "help"):
        print(USAGE)
        return
    if command == "--version":
        print(f"ppo-lm {ppo_lm.__version__}")
        return
    if command not in COMMANDS:
        unknown = f"error: there is no command {command!r}{did_you_mean(command, COMMANDS)}"
        print(printable(unknown) if command else USAGE, file=sys.stderr)
        raise SystemExit(2)
    check_processes(command)
    module_of(command).run(options, prog or f"ppo-lm {command}")

"""The shell script that starts another program's training."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from ppo_lm.exporting.elsewhere.mapping import InFolder, Mapped
from ppo_lm.exporting.elsewhere.program import Program

SCRIPT = "train.sh"
HERE = "@HERE@"  # stands for the script's own folder until the words are quoted
HEAD = """#!/usr/bin/env bash
# Repeats a run of ppo_lm in {name} {version}; see README.md. GPUS: their number. Options are added at the end.
set -eu
HERE="$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)"
{quoting}GPUS="${{GPUS:-1}}"
exec python -m {module} \\
"""


def write_script(program: Program, mapped: Iterable[Mapped]) -> str:
    """The text of the script, an option per line."""
    options = {name: value for each in mapped for name, value in each.options.items()}
    lines = [
        " ".join(_quoted(word) for word in program.write_option(name, _placed(value)))
        for name, value in options.items()
    ]
    lines += [option.format(gpus='"$GPUS"') for option in program.gpus]
    body = "".join(f"  {line} \\\n" for line in lines if line)
    head = HEAD.format(name=program.name, version=program.version, module=program.module, quoting=program.quoting)
    return f'{head}{body}  "$@"\n'


def _placed(value: object) -> object:
    return f"{HERE}/{value.path}" if isinstance(value, InFolder) else value


def _quoted(word: str) -> str:
    """The word for a shell. A path in the folder is the only thing that the shell may expand."""
    before, here, after = word.partition(HERE)
    if not here:
        return shlex.quote(word)
    return (shlex.quote(before) if before else "") + '"$HERE"' + shlex.quote(after)

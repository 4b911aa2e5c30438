"""Argument parsers: one whose options are the fields of a configuration, and its parts."""

from __future__ import annotations

import argparse
import functools
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ppo_lm.config.field_types import Topic
from ppo_lm.config.fields import Field, fields_of, help_texts
from ppo_lm.config.files import embedded_settings
from ppo_lm.config.other_names import did_you_mean
from ppo_lm.config.run_settings import WRITES_RUN
from ppo_lm.config.settings import Settings
from ppo_lm.reading import Unreadable, parse_yaml
from ppo_lm.terminal import printable

WIDEST = 120
HELP_COLUMN = 28
NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$", re.IGNORECASE)


class Parser(argparse.ArgumentParser):
    """Returns only the options that were given, and suggests the closest one for an unknown option."""

    def __init__(self, prog: str, description: str, usage: str, add_help: bool = True):
        width = min(shutil.get_terminal_size().columns, WIDEST) - 2
        super().__init__(
            prog=prog,
            usage=f"{prog} {usage}",
            description=description,
            formatter_class=functools.partial(argparse.HelpFormatter, max_help_position=HELP_COLUMN, width=width),
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
            add_help=add_help,
        )
        self._negative_number_matcher = NEGATIVE_NUMBER  # argparse's own lacks exponents before Python 3.14

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        """The value of each option in `arguments`, by name. Ends with exit code 2 if one is unknown or incomplete."""
        values, rest = self.parse_known_args(arguments)
        unknown = [argument.lstrip("-").partition("=")[0] for argument in rest if argument.startswith("-")]
        if unknown:
            known = [option.lstrip("-") for option in self._option_string_actions]
            self.error("\n".join(f"there is no option --{name}{did_you_mean(name, known, '--')}" for name in unknown))
        if rest:
            self.error(f"unexpected argument {rest[0]!r}: it follows no option")
        return vars(values)

    def error(self, message: str) -> NoReturn:
        """Without the usage line of argparse, so that the message is not lost."""
        print("\n".join(f"error: {printable(line)}" for line in message.splitlines()), file=sys.stderr)
        raise SystemExit(2)


def config_parser(
    config: type[Settings], prog: str, description: str, *, task: str | None = None, resumable: bool = False
) -> Parser:
    """A parser whose options are the fields of `config`, by topic.

    It also has `--config FILE`, which may be repeated, `--print_config`, `--resume FOLDER` if `resumable`, and
    `--overwrite` if it writes the folder of a run. `task`: the command's name, if it has settings for the embedded
    task; then "embedded" is a FILE, and `--help` shows them beside the defaults.
    """
    resume, writes_run = " | --resume FOLDER" if resumable else "", issubclass(config, WRITES_RUN)
    usage = f"[--config FILE] [--OPTION VALUE ...]{resume}"
    embedded = {} if task is None else embedded_settings(task)
    defaults = "Defaults are in [brackets]."
    if embedded:
        defaults = 'Defaults are in [brackets]; after "toy", those if you name no model and no --config.'
    parser = Parser(prog, f"{description} {defaults}", usage, add_help=False)
    fields = fields_of(config)
    texts = {name: text + _defaults(fields[name], embedded) for name, text in help_texts(config).items()}
    everyday = parser.add_argument_group("Everyday options")
    for name in config.EVERYDAY:
        _add_option(everyday, fields[name], texts[name])
    _add_general_options(parser.add_argument_group("General options"), bool(embedded), resumable, writes_run)
    for topic in Topic:
        group = parser.add_argument_group(topic.value)
        for name, field in fields.items():
            if field.topic is topic and name not in config.EVERYDAY:
                _add_option(group, field, texts[name])
    return parser


class _Repeatable(argparse.Action):
    """Collects the values of an option that is given several times; a list or null replaces what came before."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        whole = values is None or isinstance(values, list)
        setattr(namespace, self.dest, values if whole else [*(getattr(namespace, self.dest, None) or []), values])


def _add_option(group: argparse._ArgumentGroup, field: Field, text: str) -> None:
    add = functools.partial(
        group.add_argument,
        action=_Repeatable if field.is_list else "store",
        type=functools.partial(_read_value, field),
        metavar=_metavar(field),
    )
    add(f"--{field.name}", help=text.replace("%", "%%"))
    if field.former_name:
        add(f"--{field.former_name}", help=argparse.SUPPRESS)


def _add_general_options(group: argparse._ArgumentGroup, embedded: bool, resumable: bool, overwrite: bool) -> None:
    group.add_argument(
        "--config",
        action="append",
        metavar="FILE",
        help="YAML file of settings"
        + (', or "embedded" for those of the embedded task' if embedded else "")
        + ". Options override it; if files conflict, the last one wins.",
    )
    group.add_argument("--print_config", action="store_true", help="Print all settings as YAML and exit.")
    if resumable:
        group.add_argument("--resume", metavar="FOLDER", help="Resume an unfinished run, or extend one.")
        group.add_argument(
            "--allow_changes", action="store_true", help="With --resume: continue although something has changed."
        )
    if overwrite:
        group.add_argument("--overwrite", action="store_true", help="Replace a run that output_dir already holds.")
    group.add_argument("-h", "--help", action="help", help="Show this help and exit.")


def _read_value(field: Field, text: str) -> Any:
    """`text` as a value of `field`, unchecked: as it is if the field takes text, otherwise parsed as YAML."""
    if str in field.kinds or field.choices:
        if text == "null" and field.optional:
            return None
        if not (text.startswith("[") and field.is_list):
            return text
    try:
        return parse_yaml(text)
    except Unreadable:
        return text


def _metavar(field: Field) -> str:
    if field.choices:
        return f"{{{','.join(field.choices)}}}"
    return {int: "N", float: "X", bool: "{true,false}", str: "TEXT", list[str]: "TEXT"}.get(field.kinds[0], "LIST")


def _defaults(field: Field, embedded: Mapping[str, Any]) -> str:
    """The default in brackets, and that of the embedded task if it is another; the help text itself says what None
    means."""
    known = [] if field.default is None else [_written(field.default)]
    if field.name in embedded and embedded[field.name] != field.default:
        known.append(f"toy: {_written(embedded[field.name])}")
    return f" [{'; '.join(known)}]" if known else ""


def _written(value: Any) -> str:
    """A value as written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-")
    if isinstance(value, list):
        return ", ".join(map(_written, value))
    return str(value)

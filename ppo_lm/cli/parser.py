"""Argument parsers: one whose options are the fields of a configuration, and its parts."""

from __future__ import annotations

import argparse
import functools
import itertools
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from ppo_lm.config.fields import Field, by_heading, fields_of, help_texts
from ppo_lm.config.files import embedded_settings
from ppo_lm.config.other_names import did_you_mean
from ppo_lm.config.settings import Settings
from ppo_lm.errors import EXIT_CODES
from ppo_lm.reading import Unreadable, parse_yaml
from ppo_lm.terminal import printable

WIDEST = 120
HELP_COLUMN = 28
MOST_CHOICES = 50  # characters
Config = TypeVar("Config", bound=Settings)
NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$", re.IGNORECASE)


class WholeWords(argparse.HelpFormatter):
    """Breaks the help of an option at spaces only."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """Returns only the options that were given, and suggests the closest one for an unknown option."""

    no_place = "it follows no option"
    """What is wrong with an argument that belongs to nothing."""

    def __init__(
        self,
        prog: str,
        description: str,
        usage: str,
        formatter: type[argparse.HelpFormatter] = WholeWords,
    ):
        width = min(shutil.get_terminal_size().columns, WIDEST) - 2
        super().__init__(
            prog=prog,
            usage=f"{prog} {usage}",
            description=description,
            epilog=textwrap.fill(f"Exit codes: {EXIT_CODES}", width),
            formatter_class=functools.partial(formatter, max_help_position=HELP_COLUMN, width=width),
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
            add_help=False,
        )
        self._negative_number_matcher = NEGATIVE_NUMBER  # argparse's own lacks exponents before Python 3.14

    def add_general_group(self) -> argparse._ArgumentGroup:
        """The group of the options that are not settings, with --help."""
        group = self.add_argument_group("General options")
        group.add_argument("-h", "--help", action="help", help="Show this help and exit.")
        return group

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        """The value of each option in `arguments`, by name. Ends with exit code 2 if one is unknown or incomplete."""
        values, rest = self.parse_known_args(arguments)
        unknown = [argument.lstrip("-").partition("=")[0] for argument in rest if argument.startswith("-")]
        if unknown:
            known = [option.lstrip("-") for option in self._option_string_actions]
            self.error("\n".join(f"there is no option --{name}{did_you_mean(name, known, '--')}" for name in unknown))
        if rest:
            is_file_of_settings = rest[0].endswith((".yaml", ".yml")) and "--config" in self._option_string_actions
            hint = f"; did you mean '--config {rest[0]}'?" if is_file_of_settings else ""
            self.error(f"unexpected argument {rest[0]!r}: {self.no_place}{hint}")
        return vars(values)

    def error(self, message: str) -> NoReturn:
        """Without the usage line of argparse, so that the message is not lost."""
        print("\n".join(f"error: {printable(line)}" for line in message.splitlines()), file=sys.stderr)
        raise SystemExit(2)


class GeneralOption(NamedTuple):
    """An option that is not a setting: a flag or, with a `metavar`, one that takes a value."""

    name: str
    help: str
    metavar: str | None = None


PRINT_CONFIG = GeneralOption("print_config", "Print all settings as YAML and exit.")
RESUME = GeneralOption("resume", "Resume an unfinished run, or extend one.", "FOLDER")
ALLOW_CHANGES = GeneralOption("allow_changes", "With --resume: continue although something has changed.")
OVERWRITE = GeneralOption("overwrite", "Replace a run that output_dir already holds.")
JSON = GeneralOption("json", "Print the result as one JSON object; everything else goes to stderr.")
OF_A_RUN = (PRINT_CONFIG, RESUME, ALLOW_CHANGES, OVERWRITE)


class ConfigParser(Parser, Generic[Config]):
    """A parser whose options are the fields of `config`, by topic, everyday ones first.

    It also has `--config FILE`, which may be repeated, and the `general` options. `task`: the command's name, if it has
    settings for the embedded task; then "embedded" is a FILE, and `--help` shows them beside the defaults.
    """

    def __init__(
        self,
        config: type[Config],
        prog: str,
        description: str,
        *,
        task: str | None = None,
        general: Sequence[GeneralOption] = (PRINT_CONFIG,),
    ):
        self.config, self.task = config, task
        embedded = {} if task is None else embedded_settings(task)
        super().__init__(prog, f"{description}{_about_defaults(config, bool(embedded))}", _usage(config, general))
        texts = help_texts(config)
        (everyday, first), *topics = by_heading(config).items()
        group = self.add_argument_group(everyday)
        if config.POSITIONAL is not None:
            positional = fields_of(config)[config.POSITIONAL]
            name = _singular(positional.name)
            self.no_place = (
                f"give each {name} before all options" if positional.is_list else f"only one {name} is taken"
            )
            _add_positional(group, positional)
        for field in first:
            _add_option(group, field, texts[field.name], embedded)
        _add_general_options(self.add_general_group(), bool(embedded), general)
        for topic, fields in topics:
            group = self.add_argument_group(topic)
            for field in fields:
                _add_option(group, field, texts[field.name], embedded)

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        """As `Parser` does; a switch before a name, as in `report --terminal FOLDER`, does not take the name."""
        if self.config.POSITIONAL is None:
            return super().parse(arguments)
        switches = {f"--{name}": field for name, field in fields_of(self.config).items() if field.is_switch}
        apart = [
            f"{this}=true" if this in switches and isinstance(_read_value(switches[this], following), str) else this
            for this, following in itertools.pairwise([*arguments, ""])
        ]
        return super().parse(apart)


class _Repeatable(argparse._AppendAction):
    """Collects the values of an option that is given several times; a list or null replaces what came before. Shell
    completion knows by its base that the option may be repeated."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        whole = values is None or isinstance(values, list)
        setattr(namespace, self.dest, values if whole else [*(getattr(namespace, self.dest, None) or []), values])


def _about_defaults(config: type[Settings], embedded: bool) -> str:
    if all(field.default is None for field in fields_of(config).values()):
        return ""
    toy = '; after "toy", those of the embedded task, which is run if you name no model and no --config'
    return f" Defaults are in [brackets]{toy if embedded else ''}."


def _usage(config: type[Settings], general: Sequence[GeneralOption]) -> str:
    first = ""
    if config.POSITIONAL is not None:
        several = " ..." if fields_of(config)[config.POSITIONAL].is_list else ""
        first = f"[{_singular(config.POSITIONAL)}{several}] "
    return f"{first}[--config FILE] [--OPTION VALUE ...]{' | --resume FOLDER' if RESUME in general else ''}"


def _singular(field: str) -> str:
    """`models` → MODEL"""
    return field.removesuffix("s").upper()


def _add_positional(group: argparse._ArgumentGroup, field: Field) -> None:
    group.add_argument(
        field.name,
        nargs="*" if field.is_list else "?",
        metavar=_singular(field.name),
        help=f"Short for --{field.name} {_singular(field.name)}; goes before all options.",
    )


def _add_option(group: argparse._ArgumentGroup, field: Field, text: str, embedded: Mapping[str, Any]) -> None:
    add = functools.partial(
        group.add_argument,
        action=_Repeatable if field.is_list else "store",
        type=functools.partial(_read_value, field),
        metavar=_metavar(field),
        **({"nargs": "?", "const": True} if field.is_switch else {}),
    )
    if _has_many_choices(field):
        text = f"{text} One of {', '.join(field.choices)}."
    text += _defaults(field, embedded)
    add(f"--{field.name}", help=text.replace("%", "%%"))
    if field.former_name:
        add(f"--{field.former_name}", help=argparse.SUPPRESS)


def _add_general_options(group: argparse._ArgumentGroup, embedded: bool, general: Sequence[GeneralOption]) -> None:
    group.add_argument(
        "--config",
        action="append",
        metavar="FILE",
        help="YAML file of settings"
        + (', or "embedded" for those of the embedded task' if embedded else "")
        + ". Options override it; if files conflict, the last one wins.",
    )
    for option in general:
        if option.metavar is None:
            group.add_argument(f"--{option.name}", action="store_true", help=option.help)
        else:
            group.add_argument(f"--{option.name}", metavar=option.metavar, help=option.help)


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


def _has_many_choices(field: Field) -> bool:
    """Whether they are too long for one line, so that the help text lists them."""
    return len(",".join(field.choices)) > MOST_CHOICES


def _metavar(field: Field) -> str:
    if field.choices:
        return "NAME" if _has_many_choices(field) else f"{{{','.join(field.choices)}}}"
    return {int: "N", float: "X", bool: "true|false", str: "TEXT", list[str]: "TEXT"}.get(field.kinds[0], "LIST")


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

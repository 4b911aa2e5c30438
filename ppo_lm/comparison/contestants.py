"""The contestants of a comparison: models, adapters on a base that is loaded once, and completions in a column of the
prompts."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from ppo_lm.base_setup import (
    EMBEDDED_MODEL,
    check_can_quantise,
    load_adapter,
    load_base,
    read_adapter_base,
    read_quantisation,
)
from ppo_lm.config.field_types import Dtype, Quantisation
from ppo_lm.data import PromptSet
from ppo_lm.errors import ConfigError, UserError
from ppo_lm.fast.quantisation import NONE
from ppo_lm.models import BaseModel, PolicyModel
from ppo_lm.models.adapter_check import CONFIG_FILE, check_adapter_folder, check_writes_text
from ppo_lm.reading import user_path
from ppo_lm.run import find_policy, is_run_folder

COLUMN = "column:"


class Contestant(NamedTuple):
    """`source` is what `load_base` takes, an adapter's folder, or "column:NAME". `note`: a sentence about what was
    chosen for the user."""

    name: str
    source: str
    note: str | None = None

    @property
    def column(self) -> str | None:
        return self.source.removeprefix(COLUMN) if self.source.startswith(COLUMN) else None


class ModelsConfig(Protocol):
    """The settings below, which `EvaluateConfig` and `GenerateConfig` have."""

    models: list[str] | None
    dtype: Dtype
    device: str
    quantise_base: Quantisation
    allow_special_tokens: bool


def read_contestants(config: ModelsConfig, prompts: PromptSet, fewest: int = 2) -> list[Contestant]:
    """Parse and check `config.models`, before any model loads. Raises `ConfigError` with all problems."""
    contestants = [_parse(text) for text in config.models or []]
    problems = []
    try:
        check_can_quantise(config.quantise_base)
    except UserError as error:
        problems.append(str(error))
    if len(contestants) < fewest:
        count = "only one entry" if contestants else "no entries"
        wanted = "at least two to compare, each as NAME=MODEL" if fewest > 1 else "one, as MODEL or NAME=MODEL"
        problems.append(f"models has {count}; give {wanted}")
    names = [contestant.name for contestant in contestants]
    problems += [
        f"models has the name {name!r} twice; give each entry its own, as NAME=MODEL"
        for name in sorted({n for n in names if names.count(n) > 1})
    ]
    found = []
    for contestant in contestants:
        try:
            found.append(_check(contestant, prompts))
        except UserError as error:
            problems.append(str(error))
    if contestants and all(contestant.column is not None for contestant in contestants):
        problems.append("models has only columns; add at least one model")
    if problems:
        raise ConfigError(problems, type(config).__name__)
    return found


def _check(contestant: Contestant, prompts: PromptSet) -> Contestant:
    """The contestant, with the folder of the policy if it names a run. Raises `UserError` if there is no such column,
    model or policy, or for an adapter that is not supported."""
    column, source = contestant.column, contestant.source
    if column is not None:
        if column not in prompts.columns:
            known = ", ".join(prompts.columns) or "no other column"
            raise ConfigError.of(f"models names the column {column!r}, but the prompts have {known}")
        return contestant
    folder = user_path(source, "models")
    if source.startswith((".", "/", "~")) and not folder.exists():
        raise ConfigError.of(f"models names {source!r}, but there is no such file or folder")
    if is_run_folder(folder):
        policy = find_policy(folder)
        folder = policy.folder
        contestant = Contestant(contestant.name, str(folder), f"{contestant.name}: {policy.description}")
    if (folder / CONFIG_FILE).is_file():
        check_writes_text(folder)
        check_adapter_folder(folder)
        check_can_quantise(read_quantisation(folder))
    return contestant


class Bases:
    """Loads each base of a comparison once, however its name is written, or once for each way in which it is
    quantised: as the configuration says, or else as it was when the adapter on it was trained."""

    def __init__(self, config: ModelsConfig):
        self._config = config
        self._loaded: dict[tuple[str, str], BaseModel] = {}

    def load(self, name: str, adapter: Path | None = None) -> BaseModel:
        """`adapter`: the folder of one that is to be loaded onto it."""
        config, key = self._config, (resolve(name), self._quantisation(adapter))
        if key not in self._loaded:
            self._loaded[key] = load_base(
                key[0],
                config.dtype,
                config.device,
                allow_special_tokens=config.allow_special_tokens,
                quantisation=key[1],
            )
        return self._loaded[key]

    def _quantisation(self, adapter: Path | None) -> str:
        given = self._config.quantise_base
        return given if given != NONE or adapter is None else read_quantisation(adapter)


def load_policies(contestants: list[Contestant], bases: Bases) -> dict[str, PolicyModel]:
    """The policy of every contestant that is a model, by name; adapters share their base."""
    policies = {}
    for number, contestant in enumerate(contestants):
        if contestant.column is not None:
            continue
        folder = user_path(contestant.source, "models")
        is_adapter = (folder / CONFIG_FILE).is_file()
        base = bases.load(read_adapter_base(folder), folder) if is_adapter else bases.load(contestant.source)
        role = None
        if is_adapter:
            role = f"contestant_{number}"
            load_adapter(base, role, folder)
        policies[contestant.name] = PolicyModel(base, role)
    return policies


def _parse(text: str) -> Contestant:
    name, equals, source = text.partition("=")
    return Contestant(name, source) if equals else Contestant(text.removeprefix(COLUMN), text)


def resolve(name: str) -> str:
    """The same name for the same model, however it is written."""
    if name == "embedded":
        return str(EMBEDDED_MODEL)
    place = user_path(name, "models")
    return str(place.resolve()) if place.exists() else name

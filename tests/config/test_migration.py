"""The pages for users of TRL, against TRL, transformers and our settings: every name, and every default."""

import ast
import dataclasses
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import transformers
import yaml
from transformers import TrainingArguments

from ppo_lm.config import PPOConfig
from ppo_lm.config.fields import fields_of
from ppo_lm.config.other_names import OTHER_NAMES, did_you_mean

pytestmark = pytest.mark.fast

TRL = Path(importlib.util.find_spec("trl").origin).parent  # read, not imported: it is installed without what it needs
OURS = fields_of(PPOConfig)
OTHER_PLACES = {"--resume", "train(quiet=True)"}  # what is no field of ours, in the column of our names
THEIRS = {  # the configuration that a page is about: its file in TRL, and its class
    "from_trl.md": ("experimental/ppo/ppo_config.py", "PPOConfig"),
    "from_grpo.md": ("trainer/grpo_config.py", "GRPOConfig"),
}


@dataclass(frozen=True)
class Row:
    """A row of a table: a field of TRL's, what it is called here, and the defaults of both as they are written."""

    theirs: str
    their_default: str
    ours: str
    our_default: str


def tables(page: Path, second: str) -> list[list[str]]:
    """The rows of the tables on a page whose first two columns are headed TRL and `second`."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^\| TRL \| {second} \|.*\n\|---.*\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")[1:-1]] for table in found for line in table.splitlines()]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def counterparts(page: Path) -> list[Row]:
    rows = []
    for theirs, their_default, ours, our_default, _ in tables(page, "default"):
        (name,), (default,), (our_name,) = code(theirs), code(their_default), code(ours)
        rows.append(Row(name, default, our_name, "".join(code(our_default))))
    return rows


def without_counterpart(page: Path) -> list[str]:
    """The names in the tables that say why there is no counterpart."""
    return [name for theirs, _ in tables(page, "why there is no counterpart") for name in code(theirs)]


def fields_in_source(file: str, name: str) -> dict[str, object]:
    """The fields that a dataclass of TRL defines itself, with their defaults."""
    module = ast.parse((TRL / file).read_text(encoding="utf-8"))
    (definition,) = [part for part in module.body if isinstance(part, ast.ClassDef) and part.name == name]
    found = {}
    for part in definition.body:
        if isinstance(part, ast.AnnAssign):
            (default,) = [each.value for each in part.value.keywords if each.arg == "default"]
            found[part.target.id] = ast.literal_eval(default)
    return found


def their_fields(file: str, name: str) -> dict[str, object]:
    """The fields of a configuration of TRL, inherited ones included, with their defaults."""
    inherited = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(TrainingArguments)
    }
    return {**inherited, **fields_in_source("trainer/base_config.py", "_BaseConfig"), **fields_in_source(file, name)}


@pytest.fixture(params=THEIRS)
def page(request, checkout) -> Path:
    return checkout / "docs" / request.param


def test_every_field_of_ppo_config_is_on_the_page_once(checkout):
    page, fields = checkout / "docs" / "from_trl.md", their_fields(*THEIRS["from_trl.md"])
    listed = [row.theirs for row in counterparts(page)] + without_counterpart(page)
    assert len(listed) == len(set(listed))
    assert set(fields) <= set(listed), set(fields) - set(listed)
    if transformers.__version__.startswith("5.23."):  # which the page is about; others have fewer fields
        assert set(listed) == set(fields), set(listed) - set(fields)


def test_the_settings_of_ppo_itself_are_in_the_first_section(checkout):
    """Where a reader looks for them, rather than among those of `TrainingArguments`."""
    text = (checkout / "docs" / "from_trl.md").read_text(encoding="utf-8")
    section = text.partition("\n## Settings of PPO itself\n")[2].partition("\n## ")[0]
    assert not [name for name in fields_in_source(*THEIRS["from_trl.md"]) if f"`{name}`" not in section]


def test_defaults_are_those_of_both_packages(page):
    fields, rows = their_fields(*THEIRS[page.name]), counterparts(page)
    assert len(rows) >= 15
    for row in rows:
        assert ast.literal_eval(row.their_default) == fields[row.theirs], row
        if row.ours in OTHER_PLACES:
            assert not row.our_default, row
        else:
            assert ast.literal_eval(row.our_default) == OURS[row.ours].default, row


def test_names_are_those_that_messages_suggest(page):
    """One source of truth: a field with a counterpart of another name is in `OTHER_NAMES`."""
    known = {*OURS, "resume"}
    for row in counterparts(page):
        ours = row.ours.removeprefix("--")
        if ours in known and row.theirs not in known:
            assert did_you_mean(row.theirs, known) == f"; did you mean {ours!r}?", row


def test_nothing_is_suggested_for_what_has_no_counterpart(page):
    names = without_counterpart(page)
    assert names
    for name in names:
        assert name not in OURS and not set(OTHER_NAMES.get(name, ())) & set(OURS), name


def test_every_argument_of_their_trainer_is_on_the_page(checkout):
    module = ast.parse((TRL / "experimental/ppo/ppo_trainer.py").read_text(encoding="utf-8"))
    (trainer,) = [part for part in module.body if isinstance(part, ast.ClassDef) and part.name == "PPOTrainer"]
    (make,) = [part for part in trainer.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
    listed = [code(theirs)[0] for theirs, _ in tables(checkout / "docs" / "from_trl.md", "here")]
    assert {argument.arg for argument in make.args.args} - {"self"} == set(listed)


def test_the_settings_that_come_closest_are_their_defaults(checkout):
    page, fields = checkout / "docs" / "from_trl.md", their_fields(*THEIRS["from_trl.md"])
    (block,) = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    settings = yaml.safe_load(block)
    PPOConfig(**settings)
    assert settings.pop("value_learning_rate") == fields["learning_rate"]
    for name in ("lora_r", "top_k", "top_p", "max_grad_norm", "value_target"):  # what TRL has no setting for
        del settings[name]
    theirs = {row.ours: fields[row.theirs] for row in counterparts(page)}
    assert settings == {name: theirs[name] for name in settings}

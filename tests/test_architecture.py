"""The shape of the code: imports run downward, files stay short, the loop fits on one screen."""

import ast
import dataclasses
import inspect
import re
import textwrap
from pathlib import Path

import pytest

import ppo_lm
from ppo_lm.config import CollectConfig, EvaluateConfig, PPOConfig, RewardConfig, SFTConfig, ValueConfig
from ppo_lm.ppo_trainer import PPOTrainer

ROOT = Path(ppo_lm.__file__).parent
CHECKOUT = ROOT.parent
LEVELS = [
    ["errors", "types", "config"],
    ["ops"],
    ["token_attribution", "reward_kl", "advantage", "training"],
    [
        "models",
        "base_setup",
        "data",
        "rewards",
        "experience_buffer",
        "embedded.grammar",
        "embedded.posts",
        "embedded.summaries",
        "embedded.gold",
        "embedded.network",
    ],
    ["rollout", "checkpointing", "evaluation", "tracking"],
    ["ppo_trainer", "sft", "reward_modeling", "value_modeling"],
    ["comparison", "collection", "embedded.build"],
    ["cli"],
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
READ_BY_NAME = {"reward"}  # through the property `rewards`
MATHS = LEVELS[1] + LEVELS[2]


def room_of(module: str) -> str | None:
    """The longest room that `module` (dotted, after `ppo_lm.`) lies in."""
    parts = module.split(".")
    return next((r for r in (".".join(parts[:n]) for n in (2, 1)) if r in LEVEL), None)


def imports(file: Path):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


FILES = [
    file for file in sorted(ROOT.rglob("*.py")) if file not in (ROOT / "__init__.py", ROOT / "embedded" / "__init__.py")
]


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_run_downward(file):
    own = room_of(module_of(file))
    assert own is not None, f"{file} is in no room of LEVELS"
    for module in imports(file):
        if module.startswith("ppo_lm."):
            other = room_of(module.removeprefix("ppo_lm."))
            assert other is not None and LEVEL[other] <= LEVEL[own], f"{own} imports {other}, which is above it"


@pytest.mark.parametrize("file", [f for f in FILES if room_of(module_of(f)) in MATHS], ids=module_of)
def test_the_maths_knows_torch_and_no_library_above_it(file):
    allowed = {"__future__", "collections", "typing", "torch", "ppo_lm"}
    assert {module.split(".")[0] for module in imports(file)} <= allowed
    assert not any(module.startswith("ppo_lm.config") for module in imports(file))


def test_no_file_is_over_400_lines():
    files = [f for folder in ("ppo_lm", "tests", "examples", "benchmarks") for f in (CHECKOUT / folder).rglob("*.py")]
    assert {str(f): n for f in files if (n := len(f.read_text(encoding="utf-8").splitlines())) > 400} == {}


def test_ppo_step_fits_on_one_screen_and_shows_the_steps_in_order():
    source = inspect.getsource(PPOTrainer.ppo_step)
    assert len(source.splitlines()) <= 40
    steps = [
        "generate_sequences",
        "compute_rewards",
        "add_kl_to_sa_pairs",
        "adjust_rewards_with_kl",
        "add_values_to_sa_pairs",
        "compute_td_errors",
        "compute_gae_advantages",
        "add_reward_to_go",
        "train_models",
    ]
    places = [source.index(step) for step in steps]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "config",
    [SFTConfig, RewardConfig, ValueConfig, PPOConfig, EvaluateConfig, CollectConfig],
    ids=lambda config: config.__name__,
)
def test_every_config_field_is_read_and_has_a_help_line(config):
    rooms = {
        SFTConfig: ["sft", "checkpointing"],
        RewardConfig: ["reward_modeling", "checkpointing"],
        ValueConfig: ["value_modeling", "sft", "checkpointing"],
        PPOConfig: ["ppo_trainer", "tracking"],
        EvaluateConfig: ["comparison"],
        CollectConfig: ["collection"],
    }
    readers = [
        ROOT / "data" / "loading.py",
        ROOT / "ppo_trainer" / "inputs.py",
        *[file for room in rooms[config] for file in (ROOT / room).rglob("*.py")],
    ]
    code = "\n".join(file.read_text(encoding="utf-8") for file in readers)
    helped = {}
    for cls in config.__mro__[:-1]:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
        for field, after in zip(body, [*body[1:], None]):
            if isinstance(field, ast.AnnAssign):
                helped[field.target.id] = (
                    isinstance(after, ast.Expr)
                    and isinstance(after.value, ast.Constant)
                    and str(after.value.value).endswith(".")
                )
    for field in dataclasses.fields(config):
        assert (
            re.search(rf"(config|settings)\.{field.name}\b|{field.name}=config\.", code) or field.name in READ_BY_NAME
        ), f"nothing reads {field.name}"
        assert helped[field.name], f"{field.name} has no help line"


def test_main_is_short():
    assert len((CHECKOUT / "main.py").read_text(encoding="utf-8").splitlines()) <= 40


@pytest.mark.parametrize(
    "page", [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_every_link_of_the_docs_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []

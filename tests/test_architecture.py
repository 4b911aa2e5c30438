"""The shape of the code: imports run strictly downward, and the loop shows its steps in order."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ppo_lm
from ppo_lm.advantage import GAEAdvantage, ReturnCalculator, TDError
from ppo_lm.config import PPOConfig
from ppo_lm.ppo_trainer import ModelTrainer, PPOTrainer, RewardComputer, SequenceGenerator, ValueAdder
from ppo_lm.reward_kl import KLDivergence, RewardAdjuster

pytestmark = pytest.mark.fast

ROOT = Path(ppo_lm.__file__).parent
CHECKOUT = ROOT.parent
LEVELS = [  # a room imports from rooms above it in this list only, and from none on its own line
    ["progress"],
    ["terminal"],
    ["errors", "signals", "types", "embedded", "markdown"],
    ["user_code", "reading", "saving", "distributed"],
    ["kernels", "services"],
    ["ops", "config", "plugins", "fingerprint"],
    ["token_attribution", "experience_buffer", "health"],
    ["reward_kl", "advantage", "optimisation"],
    ["training"],
    ["fast"],
    ["models"],
    ["data"],
    ["base_setup"],
    ["rewards"],
    ["rollout"],
    ["evaluation"],
    ["tracking"],
    ["live"],
    ["run"],
    ["ppo_trainer", "sft", "reward_modeling", "value_modeling"],
    ["comparison", "collection", "report", "planning"],
    ["generation", "exporting"],
    ["cli"],
    ["__main__"],
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
MATHS = ["ops", "token_attribution", "reward_kl", "advantage", "training"]


def imports(file: Path) -> Iterator[str]:
    """Every module and name that a file imports, wherever in it, as dotted names."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def imported_rooms(package: Path) -> dict[str, dict[str, list[str]]]:
    """Room → the rooms that it imports → the files that do."""
    graph: dict[str, dict[str, list[str]]] = {}
    for file in sorted(package.rglob("*.py")):
        room = file.relative_to(package).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        others = graph.setdefault(room, {})
        for module in imports(file):
            other = module.removeprefix("ppo_lm.").split(".")[0]
            if module.startswith("ppo_lm.") and other != room:
                others.setdefault(other, []).append(str(file.relative_to(package)))
    return graph


def upward(graph: dict[str, dict[str, list[str]]]) -> list[str]:
    """Every import that does not run strictly downward."""
    return [
        f"{files[0]} imports {other}"
        for room, others in graph.items()
        for other, files in others.items()
        if LEVEL[other] >= LEVEL[room]
    ]


def test_rooms_import_strictly_downward():
    graph = imported_rooms(ROOT)
    assert set(graph) == set(LEVEL), "a room has no line in LEVELS, or a line has no room"
    assert upward(graph) == []


def test_an_upward_import_and_one_on_the_same_level_are_noticed(tmp_path):
    for room, module in {"sft": "ppo_lm.reward_modeling.stage", "ops": "ppo_lm.models", "models": "ppo_lm.ops"}.items():
        (tmp_path / room).mkdir()
        (tmp_path / room / "file.py").write_text(f"def late():\n    from {module} import anything\n")
    assert upward(imported_rooms(tmp_path)) == ["ops/file.py imports models", "sft/file.py imports reward_modeling"]


def test_the_maths_imports_torch_and_no_other_library():
    allowed = {"__future__", "collections", "dataclasses", "functools", "typing", "torch", "ppo_lm"}
    foreign = {
        str(file): libraries
        for room in MATHS
        for file in (ROOT / room).rglob("*.py")
        if (libraries := {module.split(".")[0] for module in imports(file)} - allowed)
    }
    assert foreign == {}


@pytest.mark.parametrize("mini_batches", [1, 2])
def test_ppo_step_takes_the_steps_in_order(folder, monkeypatch, mini_batches):
    steps, taken = (
        [
            (SequenceGenerator, "generate_sequences"),
            (RewardComputer, "compute_rewards"),
            (KLDivergence, "add_kl_to_sa_pairs"),
            (RewardAdjuster, "adjust_rewards_with_kl"),
            (ValueAdder, "add_values_to_sa_pairs"),
            (TDError, "compute_td_errors"),
            (GAEAdvantage, "compute_gae_advantages"),
            (ReturnCalculator, "add_reward_to_go"),
            (ModelTrainer, "train_value_model"),
            (ModelTrainer, "train_policy_model"),
        ],
        [],
    )

    def recorded(name, method):
        return lambda *arguments, **options: (taken.append(name), method(*arguments, **options))[1]

    for owner, name in steps:
        monkeypatch.setattr(owner, name, recorded(name, getattr(owner, name)))
    config = PPOConfig(model_name=folder, lora_r=4, batch_size=2, mini_batches=mini_batches, steps=2, device="cpu")
    PPOTrainer(config, reward=lambda completions: [1.0] * len(completions)).ppo_step(["TL;DR:"] * 2)
    expected = [name for _, name in steps]
    if mini_batches == 1:  # the value model's first update, which begins with its predictions, needs its targets
        expected[5:5] = expected[5:8]
    assert taken == expected


@pytest.mark.parametrize(
    "page", [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_every_link_of_the_docs_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []

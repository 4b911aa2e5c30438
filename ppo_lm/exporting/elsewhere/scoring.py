"""The rewards of a run for other programs: a reward model as it is, or functions through a file that they import."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ppo_lm.base_setup import find_reward_folder
from ppo_lm.config import PPOConfig
from ppo_lm.data import PromptSet
from ppo_lm.errors import ConfigError, RewardError
from ppo_lm.exporting.elsewhere.prompts import plain_columns
from ppo_lm.reading import as_path
from ppo_lm.rewards import DEFAULT_REWARD, FunctionReward, ModelReward, Reward, load_reward, without_addresses

FILE = "reward.py"
ABOUT_A_RESPONSE = ("terminated", "completion_ids")
SCORING = '''"""The rewards of a run of ppo_lm for {program}. They need ppo_lm, installed where {program} is."""

import json
from pathlib import Path

from ppo_lm.rewards import Responses, RewardComputer, load_reward

HERE = Path(__file__).resolve().parent
REWARDS = [{rewards}]
COMPUTER = RewardComputer([load_reward(reward) for reward in REWARDS], weights={weights}, clip={clip})


def score(given, completion, **known):
    """One response: `given` is JSON of the prompt and its columns."""
    row = json.loads(given)
    columns = {{name: [value] for name, value in {{**row["columns"], **known}}.items()}}
    return COMPUTER.compute_rewards(Responses([row["prompt"]], [completion], columns)).total.item()
'''


class Scoring(NamedTuple):
    """`model`: the folder of a reward model, or None. `functions`: the rewards as the configuration names them, if they
    are no model."""

    model: Path | None
    functions: list[str]
    rewards: list[Reward]


def find_scoring(program: str, config: PPOConfig, recorded: list[str] | None) -> Scoring:
    """What scores the responses of a run. `recorded`: what its checkpoint says of its rewards, or None. Raises
    `ConfigError` for rewards that cannot go to another program."""
    names = config.rewards or [DEFAULT_REWARD]
    rewards = [load_reward(name) for name in names]
    if recorded is not None and recorded not in (without_addresses(config.rewards), [each.name for each in rewards]):
        raise ConfigError.of(
            f"the run's rewards were given in Python ({', '.join(recorded)}), so they cannot be loaded "
            "again; export a run that names them with --reward"
        )
    alone = len(rewards) == 1 and config.reward_weights in (None, [1])
    if alone and isinstance(rewards[0], ModelReward):
        return Scoring(find_reward_folder(names[0]), [], rewards)
    load = [reward for reward in rewards if type(reward).make_ready is not Reward.make_ready]
    if load:
        raise ConfigError.of(
            f"reward {', '.join(reward.name for reward in load)} loads a model, which {program} takes only as the "
            "single reward, with weight 1, and only if ppo_lm has trained it; export a run with such a reward, or with "
            "functions"
        )
    return Scoring(None, names, rewards)


def check_columns(scoring: Scoring, prompts: PromptSet, told: Sequence[str]) -> None:
    """Raise `RewardError` if a function needs a column that JSON cannot hold, or something about a response that the
    program does not tell it. `told`: what it does tell besides the text."""
    for reward in scoring.rewards if scoring.model is None else ():
        missing = reward.missing_columns(plain_columns(prompts))
        required = reward.required if isinstance(reward, FunctionReward) else ()
        missing += [name for name in ABOUT_A_RESPONSE if name in required and name not in told]
        if missing:
            raise RewardError(
                f"reward {reward.name} needs {', '.join(missing)}, which other programs cannot give it: they pass "
                "on the prompt, the text of the response, and columns that JSON can hold"
            )


def write_scoring(scoring: Scoring, config: PPOConfig, program: str, ending: str, folder: Path) -> None:
    """Write `reward.py` and copies of the files that its rewards are in. `ending`: the function that the program
    calls."""
    rewards = ", ".join(_named(name, number, folder) for number, name in enumerate(scoring.functions))
    text = SCORING.format(program=program, rewards=rewards, weights=config.reward_weights, clip=config.reward_clip)
    (folder / FILE).write_text(text + ending, encoding="utf-8")


def _named(name: str, number: int, folder: Path) -> str:
    """A Python expression for a reward's name; a file that is in it is copied."""
    place, _, function = name.rpartition(":")
    file = as_path(place) if place.endswith(".py") else None
    if file is None or not file.is_file():
        return repr(name)
    copy = f"{file.stem}_{number}.py"
    shutil.copyfile(file, folder / copy)
    return f'f"{{HERE}}/{copy}:{function}"'

"""Put the roles of a PPO run onto one base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from peft import LoraConfig

from ppo_lm.base_setup.base_setup import EMBEDDED_MODEL
from ppo_lm.base_setup.lora_setup import ALL_LINEAR, last_part, layers_left_out, linear_layers, make_lora_config
from ppo_lm.base_setup.rehearsal import rehearse_training
from ppo_lm.base_setup.sharding import shard_base
from ppo_lm.errors import ModelError, UserError, first_line
from ppo_lm.models import BaseModel, PolicyModel, RewardModel, SFTModel, ValueModel
from ppo_lm.models.adapter_check import check_adapter_folder
from ppo_lm.models.reward_model import REWARD_FILES
from ppo_lm.models.score_head import HEAD_FILE
from ppo_lm.models.value_model import VALUE_FILES
from ppo_lm.reading import as_path


class Roles(NamedTuple):
    """The models of a PPO run; `value` is None if no value model is needed; `rewards` are the reward models on the
    base, empty if only functions score."""

    policy: PolicyModel
    sft: SFTModel
    value: ValueModel | None
    rewards: Sequence[RewardModel]

    def trained(self) -> dict[str, PolicyModel | ValueModel]:
        """The models that PPO trains, by role."""
        return {"policy": self.policy} if self.value is None else {"policy": self.policy, "value": self.value}


def set_up_roles(
    base: BaseModel,
    *,
    lora_r: int,
    lora_alpha: float,
    lora_dropout: float,
    lora_targets: str,
    load_rewards: Callable[[BaseModel], Sequence[RewardModel]] = lambda base: (),
    seed: int = 0,
    shared_trunk: bool = False,
    value_folder: Path | None = None,
    with_value: bool = True,
) -> Roles:
    """Add the adapters and heads to `base`, randomly initialised with `seed`.

    `load_rewards` puts the reward models onto the base and returns them. It is called after torch is seeded and before
    the policy's adapter is initialised: what it draws affects the policy's initial weights, and calling it here keeps
    them the same for the same seed and rewards.

    With lora_r 0, policy and value each get a full copy of the weights; the base remains the reference. The value model
    starts from `value_folder`, the output of `ppo-lm value`, if given; else from the adapter and normalised head of the
    first reward model on the base (2403.17031); else from V = 0. With `shared_trunk` it is a head on the policy's
    hidden states instead, starting from V = 0. Without `with_value` there is none.
    """
    torch.manual_seed(seed)
    full = lora_r == 0
    lora = None if full else make_lora_config(lora_r, lora_alpha, lora_dropout, lora_targets)
    policy_base = copy_all_weights(base) if full else base
    value_base = copy_all_weights(base) if full and with_value and not shared_trunk else base
    rewards = load_rewards(base)
    if lora:
        add_adapter(base, "policy", lora)
    else:
        rehearse_training(policy_base, None)
    policy = PolicyModel(policy_base, "policy" if lora else None)
    value = None
    if with_value and shared_trunk:
        value = ValueModel.on_trunk_of(policy)
    elif with_value:
        value = make_value_model(base, value_base, lora, value_folder, rewards)
    for reward in rewards:
        freeze(reward)
    return Roles(policy, SFTModel(base), value, rewards)


def copy_all_weights(base: BaseModel) -> BaseModel:
    """`base.copy_of_all_weights`, sharded if the base is."""
    twin = base.copy_of_all_weights()
    if base.is_sharded:
        shard_base(twin, base.device)
    return twin


def make_value_model(
    base: BaseModel,
    value_base: BaseModel,
    lora: LoraConfig | None,
    value_folder: Path | None,
    rewards: Sequence[RewardModel],
) -> ValueModel:
    """An adapter on `base`, or without `lora` all weights of `value_base`, and a head: those that `ppo-lm value` saved
    in `value_folder`, else the first reward model's, else new ones with V = 0."""
    if value_folder:
        load_value_adapter(base, value_folder)
    elif rewards:
        base.copy_adapter(rewards[0].role, "value")
    elif lora:
        add_adapter(base, "value", lora)
    if not lora and (value_folder or rewards):
        with base.gathered(everywhere=True):
            value_base.set_weights(base.merged_weights("value").weights)
    value = ValueModel(value_base, "value" if lora else None)
    if value_folder:
        value.head.load(value_folder)
    elif rewards:
        value.head.start_from(rewards[0].head, rewards[0].mean, rewards[0].std)
    return value


def add_adapter(base: BaseModel, role: str, lora: LoraConfig) -> None:
    """Like `base.add_adapter`, but raises `ModelError`, listing the available modules, if the targets cannot be used or
    trained. With "all-linear", layers that cannot be adapted are left out, which `base.notes` says."""
    layers, left_out = linear_layers(base.network), layers_left_out(base.network)
    usable = sorted({last_part(name) for name in layers} - left_out.keys())
    if left_out and lora.target_modules == ALL_LINEAR:
        lora.target_modules = [name for name in layers if last_part(name) not in left_out]
        base.notes += _left_out_notes({last_part(name) for name in layers}, left_out)
    for name in sorted(left_out.keys() & set(lora.target_modules or ())):
        raise ModelError(
            f"lora_targets {name} cannot be used with model {base.name!r}: {left_out[name]}; it has {', '.join(usable)}"
        )
    try:
        base.add_adapter(role, lora)
    except ValueError as error:  # peft found no such module
        raise ModelError(
            f"lora_targets {lora.target_modules!r} cannot be used with this model ({first_line(error)}); it has "
            f"{', '.join(usable)}"
        ) from None
    rehearse_training(base, role)


def _left_out_notes(names: set[str], left_out: dict[str, str]) -> list[str]:
    """One clause for each reason."""
    reasons = dict.fromkeys(left_out.values())
    found = {reason: sorted(name for name in names if left_out.get(name) == reason) for reason in reasons}
    return [f"no adapters on {', '.join(left) or 'its experts'}: {reason}" for reason, left in found.items()]


def load_reward_model(base: BaseModel, folder: Path) -> RewardModel:
    """`RewardModel.load` as the role "reward", or "reward_N" if that is taken. Raises `ModelError` if it does not fit
    the base."""
    role = f"reward_{len(base.roles) + 1}" if "reward" in base.roles else "reward"
    with _loading("reward model", folder, base):
        return RewardModel.load(base, folder, role)


def load_value_adapter(base: BaseModel, folder: Path) -> None:
    """Add the adapter of the value model in `folder` as the role "value". Raises `ModelError` if it does not fit the
    base."""
    with _loading("value model", folder, base):
        base.load_adapter("value", folder)


@contextmanager
def _loading(kind: str, folder: Path, base: BaseModel) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # peft and safetensors raise many kinds of error
        raise ModelError(
            f"{kind} {str(folder)!r} cannot be loaded onto model {base.name!r}; was it trained on another one? "
            f"{first_line(error)}"
        ) from error


def freeze(reward: RewardModel) -> None:
    """Exclude the reward model's weights from training."""
    for parameter in reward.parameters():
        parameter.requires_grad_(False)


def find_reward_folder(reward: str) -> Path | None:
    """The folder of the ppo_lm reward model that `reward` names ("embedded", the folder itself, or its run's folder);
    None if it names something else. Raises `ModelError` for an incomplete one."""
    return _find_folder(reward, "reward", REWARD_FILES)


def find_value_folder(value_model: str) -> Path:
    """The folder of the ppo_lm value model that `value_model` names ("embedded", the folder itself, or its run's
    folder). Raises `ModelError` if there is none, or for an incomplete one."""
    folder = _find_folder(value_model, "value", VALUE_FILES)
    if folder is None:
        raise ModelError(
            f"value_model {value_model!r}: it contains no value model; give the folder of a `ppo-lm value` run, or "
            "leave value_model out"
        )
    return folder


def _find_folder(name: str, role: str, files: tuple[str, ...]) -> Path | None:
    """The folder that has `files`: `name`, or the subfolder named after the role; None if neither has any of them."""
    folder = EMBEDDED_MODEL / role if name == "embedded" else as_path(name)
    if folder is None:
        return None
    try:
        if (folder / role / HEAD_FILE).is_file():
            folder = folder / role
        missing = [file for file in files if not (folder / file).is_file()]
    except OSError:  # a folder in it that may not be read
        return None
    if missing == list(files):
        return None
    if missing:
        raise ModelError(
            f"{role} {name!r}: {folder} has no {', '.join(missing)}, so it is not a {role} model trained by ppo_lm"
        )
    check_adapter_folder(folder)
    return folder

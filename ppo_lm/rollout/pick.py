"""The sampling engines by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ppo_lm.errors import ConfigError, ModelError
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.models import PolicyModel
from ppo_lm.plugins import Registry
from ppo_lm.rollout.engine import RolloutEngine
from ppo_lm.rollout.graph_engine import GraphEngine
from ppo_lm.rollout.plain_engine import PlainEngine
from ppo_lm.rollout.remote import SGLANG, VLLM, Samplers, find_servers
from ppo_lm.rollout.slot_engine import SlotEngine

MakeEngine = Callable[[PolicyModel, MemoryBudget], RolloutEngine]


class ByServers(NamedTuple):
    """An engine on servers, which are asked before a model is loaded: `find` returns the engine's factory."""

    find: Callable[[Samplers], MakeEngine]


def pick_engine(policy: PolicyModel, budget: MemoryBudget | None = None) -> RolloutEngine:
    """An engine with our own decoder if that can run the policy's network: on CUDA `GraphEngine`, elsewhere
    `SlotEngine`. Otherwise `PlainEngine`, which can run any network."""
    reason = policy.base.why_no_decoder
    if reason is not None:
        return PlainEngine(policy, budget, reason)
    return (GraphEngine if policy.base.device.type == "cuda" else SlotEngine)(policy, budget)


def make_slot_engine(policy: PolicyModel, budget: MemoryBudget) -> SlotEngine:
    """`SlotEngine`; raises `ModelError`, with the reason, if it cannot run the policy's network."""
    _check_decoder(policy, "slots")
    return SlotEngine(policy, budget)


def make_graph_engine(policy: PolicyModel, budget: MemoryBudget) -> GraphEngine:
    """`GraphEngine`; raises `ModelError`, with the reason, if it cannot run the policy's network."""
    _check_decoder(policy, "graphs")
    return GraphEngine(policy, budget)


def _check_decoder(policy: PolicyModel, engine: str) -> None:
    reason = policy.base.why_no_decoder
    if reason is not None:
        raise ModelError(f"engine {engine} cannot sample from {policy.base.name}: {reason}; set engine to auto")


NO_SERVERS = Samplers([], None, 0.0)

# Each name maps to a factory, which takes the policy and the run's memory budget, and raises `ModelError` if the engine
# cannot sample from this policy.
ENGINES: Registry[MakeEngine | ByServers] = Registry("engine")
ENGINES.register("auto")(pick_engine)
ENGINES.register("slots")(make_slot_engine)
ENGINES.register("graphs")(make_graph_engine)
ENGINES.register("transformers")(PlainEngine)
ENGINES.register("vllm")(ByServers(partial(find_servers, VLLM)))
ENGINES.register("sglang")(ByServers(partial(find_servers, SGLANG)))


def find_engine(engine: str | RolloutEngine, samplers: Samplers = NO_SERVERS) -> MakeEngine:
    """The factory of the named engine, or one that returns the given engine. `samplers`: for engines on servers, which
    are asked. Raises `ConfigError` if there is no such engine, if it is not an engine, or if a server does not
    answer."""
    if isinstance(engine, str):
        found = ENGINES.find(engine)
        make = found.find(samplers) if isinstance(found, ByServers) else found
        return lambda policy, budget: _checked(make(policy, budget))
    _checked(engine)
    return lambda policy, budget: engine


def _checked(engine: RolloutEngine) -> RolloutEngine:
    missing = [name for name in ("sample", "update_weights", "description") if not hasattr(engine, name)]
    if missing:
        raise ConfigError.of(
            f"engine {type(engine).__name__} has no {', '.join(missing)}; inherit from ppo_lm.rollout.RolloutEngine "
            "and write sample"
        )
    return engine

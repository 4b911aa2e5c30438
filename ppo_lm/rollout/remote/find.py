"""From the settings to the engine: ask the servers before a model is loaded, and try them once the policy is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from ppo_lm.distributed import processes
from ppo_lm.errors import ConfigError, require
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.models import PolicyModel
from ppo_lm.reading import user_path
from ppo_lm.rollout.remote.dialect import Dialect
from ppo_lm.rollout.remote.engine import RemoteEngine
from ppo_lm.rollout.remote.trial import try_servers
from ppo_lm.services import BadAnswer, Refused, exchange, open_session, parse, run

TO_ANSWER = 10.0  # seconds for a server to say which version it is


class Samplers(NamedTuple):
    """The servers that a configuration names: their addresses; the folder of the adapters, None for a temporary one;
    the seconds of `engine_timeout`; and how many steps old the policy may be that they sample with."""

    urls: list[str]
    folder: str | None
    timeout: float
    staleness: int = 0


def find_servers(dialect: Dialect, samplers: Samplers) -> Callable[[PolicyModel, MemoryBudget], RemoteEngine]:
    """The factory of an engine that samples there. Raises `ConfigError` if one of the servers does not answer, or is of
    another kind."""
    require("aiohttp", "sampling on a server", "remote")
    urls = [url.rstrip("/") for url in samplers.urls]
    folder = None if samplers.folder is None else user_path(samplers.folder, "engine_folder")
    versions = processes().once(lambda: run(_ask_about(dialect, urls)))

    def make(policy: PolicyModel, budget: MemoryBudget) -> RemoteEngine:
        engine = RemoteEngine(policy, dialect, urls, folder, samplers.timeout, samplers.staleness + 2, budget.tell)
        gap = try_servers(engine)
        engine.found = f" (version {', '.join(sorted(set(versions)))}; {gap:.1g} nats per token from the policy)"
        return engine

    return make


async def _ask_about(dialect: Dialect, urls: list[str]) -> list[str]:
    """What each server says of itself."""
    import aiohttp

    async with open_session(aiohttp.ClientTimeout(total=TO_ANSWER)) as session:

        async def ask(url: str) -> str | Exception:
            try:
                return dialect.describe(parse(await exchange(session, url + dialect.about, longest=2**20)))
            except (BadAnswer, Refused) as error:
                return error

        answers = await asyncio.gather(*map(ask, urls))
    problems = [
        f"engine_urls: {url} {'failed: ' if isinstance(answer, BadAnswer) else ''}{answer}; start {dialect.name}'s "
        "server there, or name where it is"
        for url, answer in zip(urls, answers)
        if isinstance(answer, Exception)
    ]
    if problems:
        raise ConfigError(problems)
    return [answer for answer in answers if isinstance(answer, str)]

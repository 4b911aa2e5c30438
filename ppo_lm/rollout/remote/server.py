"""One server: what it has loaded, how busy it is, and whether it can be used."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ppo_lm.rollout.remote.adapters import Adapter
from ppo_lm.rollout.remote.dialect import Dialect, Request, Response
from ppo_lm.services import BadAnswer, Refused, exchange, parse

if TYPE_CHECKING:
    import aiohttp

LONGEST_SHORT_ANSWER = 2**16  # bytes
SHORTEST_REST, LONGEST_REST = 0.5, 30.0  # seconds until a server that failed is asked again


class Unusable(Exception):
    """The server cannot be used as it is, whatever it is asked. The message continues "the server at ..."."""


class Server:
    """A server's state, as this process knows it."""

    def __init__(self, dialect: Dialect, url: str, kept: int = 2):
        """`kept`: how many adapters it keeps."""
        self.dialect, self.url, self.kept = dialect, url, kept
        self.open = 0  # requests that it has not answered yet
        self.loaded: list[str] = []  # adapters, oldest first
        self.failing_since: float | None = None
        self.rests_until = 0.0
        self.lost: str | None = None  # why it is not asked any more
        self._loading = asyncio.Lock()

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Inside the block, the server has a request to answer."""
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    def can_be_asked(self, now: float) -> bool:
        """Whether it may get a request now; while it fails, one at a time."""
        if self.failing_since is None:
            return self.lost is None
        return self.lost is None and self.rests_until <= now and not self.open

    def answered(self) -> None:
        """It works."""
        self.failing_since = None

    def failed(self, sent: float, patience: float) -> bool:
        """A request that was sent at `sent` failed. The longer it has been failing, the longer it is left alone.
        Returns whether it has failed for longer than `patience` seconds."""
        self.failing_since = sent if self.failing_since is None else self.failing_since
        spent = time.monotonic() - self.failing_since
        self.rests_until = time.monotonic() + min(max(spent, SHORTEST_REST), LONGEST_REST)
        return spent >= patience

    async def load(self, session: aiohttp.ClientSession, adapter: Adapter) -> None:
        """Load the adapter unless that is done, and unload older ones. Raises `BadAnswer` or `Unusable`."""
        async with self._loading:
            if adapter.name in self.loaded:
                return
            try:
                await self._post(session, self.dialect.load, lora_name=adapter.name, lora_path=adapter.folder)
            except Refused as refused:
                if not self.dialect.is_loaded_already(refused):  # by another process
                    raise Unusable(self._why_not_loaded(refused, adapter)) from refused
            self.loaded.append(adapter.name)
            while len(self.loaded) > self.kept:
                with suppress(Refused, BadAnswer):  # another process was faster, or it was restarted
                    await self._post(session, self.dialect.unload, lora_name=self.loaded.pop(0))

    async def sample(self, session: aiohttp.ClientSession, adapter: Adapter, request: Request) -> Response:
        """One response. A server that does not know the adapter was restarted, and gets it again, once. Raises
        `BadAnswer`, `Refused` or `Unusable`."""
        await self.load(session, adapter)
        try:
            return await self._generate(session, request)
        except Refused as refused:
            if not self.dialect.is_unknown_adapter(refused):
                raise
        if adapter.name in self.loaded:
            self.loaded.clear()
        await self.load(session, adapter)
        try:
            return await self._generate(session, request)
        except Refused as refused:
            if self.dialect.is_unknown_adapter(refused):
                words = self.dialect.said(refused)
                raise Unusable(f"does not know the adapter that it has just loaded ({words})") from refused
            raise

    async def _generate(self, session: aiohttp.ClientSession, request: Request) -> Response:
        body, longest = self.dialect.write(request), request.longest_answer
        answer = parse(await exchange(session, self.url + self.dialect.generate, body, longest=longest))
        try:
            return self.dialect.read(answer, request)
        except BadAnswer as error:  # the next one would be like it
            raise Unusable(f"cannot be used: {error}") from error

    async def _post(self, session: aiohttp.ClientSession, path: str, **body: str) -> None:
        await exchange(session, self.url + path, body, longest=LONGEST_SHORT_ANSWER)

    def _why_not_loaded(self, refused: Refused, adapter: Adapter) -> str:
        if self.dialect.cannot_load(refused):
            return f"does not load adapters while it runs; start it with {self.dialect.to_load}"
        return (
            f"does not load the adapter in {adapter.folder} ({self.dialect.said(refused)}); it has to be able to read "
            "that folder (set engine_folder to one that it can), and its --max-lora-rank has to be lora_r or more"
        )

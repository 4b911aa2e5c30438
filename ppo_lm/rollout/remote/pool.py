"""Several servers that share the requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ppo_lm.errors import SamplerError
from ppo_lm.progress import phase
from ppo_lm.rollout.remote.adapters import Adapter
from ppo_lm.rollout.remote.dialect import Request, Response
from ppo_lm.rollout.remote.server import Server, Unusable
from ppo_lm.services import BadAnswer, Refused, open_session

if TYPE_CHECKING:
    import aiohttp

REQUESTS_AT_ONCE = 256  # per server: vLLM's own default of sequences that it decodes at once on a CPU or a small GPU
Say = Callable[[str], None]
TO_CONNECT = 10.0  # seconds
LOOK_AGAIN = 0.1  # seconds until a server may have become free


class Pool:
    """The servers of a run. A request goes to the one with the fewest open requests; if it fails there, to another. A
    server is dropped once it has failed for `patience` seconds, or at once if it cannot be used as it is."""

    def __init__(self, servers: Sequence[Server], timeout: float, patience: float):
        """`timeout`: seconds for one response."""
        self.servers, self.timeout, self.patience = servers, timeout, patience

    async def sample(self, adapter: Adapter, requests: Sequence[Request], say: Say) -> list[Response]:
        """One response to each request. `say` is called with one line whenever a server begins to fail, and when it is
        dropped. Raises `SamplerError` if no server is left, or if one refuses a request."""
        limit = asyncio.Semaphore(REQUESTS_AT_ONCE * len(self.servers))
        with phase("sampling", len(requests), "responses") as progress:
            async with self._session() as session:

                async def ask(request: Request) -> Response:
                    async with limit:
                        response = await self._ask(session, adapter, request, say)
                    progress.done += 1
                    return response

                return await _all_of([asyncio.ensure_future(ask(request)) for request in requests])

    async def load(self, adapter: Adapter, say: Say) -> None:
        """Have all servers load the adapter. One that fails gets it later, with its next request."""
        async with self._session() as session:
            ready = [server for server in self.servers if server.can_be_asked(time.monotonic())]
            await asyncio.gather(*(self._try_to_load(session, server, adapter, say) for server in ready))

    async def _try_to_load(self, session: aiohttp.ClientSession, server: Server, adapter: Adapter, say: Say) -> None:
        sent = time.monotonic()
        with server.asked():
            try:
                await server.load(session, adapter)
                server.answered()
            except (BadAnswer, Unusable) as error:
                self._note_failure(server, sent, error, say)

    async def _ask(self, session: aiohttp.ClientSession, adapter: Adapter, request: Request, say: Say) -> Response:
        while True:
            server, sent = await self._next_server(), time.monotonic()
            with server.asked():
                try:
                    response = await server.sample(session, adapter, request)
                    server.answered()
                    return response
                except Refused as refused:
                    raise SamplerError(
                        f"the sampling server at {server.url} refuses a prompt of {len(request.prompt)} tokens with "
                        f"up to {request.settings.max_new_tokens} new ones: {server.dialect.said(refused)}"
                    ) from refused
                except (BadAnswer, Unusable) as error:
                    self._note_failure(server, sent, error, say)

    async def _next_server(self) -> Server:
        while True:
            if all(server.lost for server in self.servers):
                raise SamplerError(self._why_none_is_left())
            now = time.monotonic()
            ready = [server for server in self.servers if server.can_be_asked(now)]
            if ready:
                return min(ready, key=lambda server: server.open)
            await asyncio.sleep(LOOK_AGAIN)

    def _note_failure(self, server: Server, sent: float, error: BadAnswer | Unusable, say: Say) -> None:
        began = server.failing_since is None
        is_over = server.failed(sent, self.patience) or isinstance(error, Unusable)
        what = str(error) if isinstance(error, Unusable) else f"failed: {error}"
        if server.lost is not None:
            return
        if is_over:
            server.lost = what
            say(f"the sampling server at {server.url} is dropped: it {what}")
        elif began:
            say(f"the sampling server at {server.url} {what}; it is asked again for {self.patience:g} s")

    def _why_none_is_left(self) -> str:
        reasons = "; ".join(f"the one at {server.url} {server.lost}" for server in self.servers)
        return f"no sampling server is left: {reasons}; check that they are running and can be reached"

    def _session(self) -> aiohttp.ClientSession:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=self.timeout, sock_connect=TO_CONNECT)
        return open_session(timeout, connector=aiohttp.TCPConnector(limit=0))


async def _all_of(tasks: list[asyncio.Future[Response]]) -> list[Response]:
    """The results, or the first error, after which the other tasks are cancelled."""
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()

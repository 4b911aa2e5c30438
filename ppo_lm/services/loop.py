"""One event loop for all that is awaited."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Coroutine
from functools import cache
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to completion and return its result. All run on one event loop in a separate thread, so that a
    function can keep clients and semaphores between calls, and so that this works where a loop is already running (a
    notebook). It is cancelled if the wait for it is interrupted."""
    future = asyncio.run_coroutine_threadsafe(contained(coroutine), _event_loop())
    try:
        return future.result()
    except _Carrier as carrier:
        raise carrier.exception from None
    except BaseException:
        future.cancel()
        raise


class _Carrier(Exception):
    """Carries an exception that would end the event loop's thread if a task raised it."""

    def __init__(self, exception: BaseException):
        super().__init__()
        self.exception = exception


async def contained(coroutine: Awaitable[Result]) -> Result:
    """Await `coroutine`, one of several tasks: what would end the thread is raised by `run` instead."""
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as exception:
        raise _Carrier(exception) from None


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="ppo_lm services", daemon=True).start()
    return loop

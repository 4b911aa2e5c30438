"""One request to a service and its answer, of bounded size, from no other address than the one that was asked."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from ppo_lm.errors import first_line
from ppo_lm.reading import Unreadable, parse_json

if TYPE_CHECKING:
    import aiohttp

RETRIED_STATUS = (408, 425, 429)  # and every 5xx
LONGEST_REFUSAL = 2**12  # bytes that are read of it
LONGEST_QUOTE = 200  # characters of it in a message
HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}  # nothing that swells when unpacked


class BadAnswer(Exception):
    """The service cannot be reached, asks to try again later, or gave an answer that does not follow the schema."""


class Refused(Exception):
    """The service will not answer this request. The message continues "the service at ..."."""

    def __init__(self, message: str, status: int, body: bytes = b""):
        super().__init__(message)
        self.status, self.body = status, body


def open_session(timeout: aiohttp.ClientTimeout, **options: Any) -> aiohttp.ClientSession:
    """A session for `exchange`."""
    import aiohttp

    return aiohttp.ClientSession(timeout=timeout, headers=HEADERS, auto_decompress=False, **options)


async def exchange(session: aiohttp.ClientSession, url: str, body: Any = None, *, longest: int) -> bytes:
    """POST `body` as JSON, or GET if it is None; the answer is read up to `longest` bytes. Raises `BadAnswer` if it is
    worth another try, `Refused` if not. Redirects are not followed."""
    import aiohttp

    data = None if body is None else json.dumps(body, default=str).encode()
    try:
        async with session.request(
            "GET" if data is None else "POST", url, data=data, allow_redirects=False
        ) as response:
            return await _read_answer(response, longest)
    except asyncio.TimeoutError as error:
        raise BadAnswer("no answer in time") from error
    except aiohttp.ClientError as error:
        raise BadAnswer(printable(first_line(error))) from error


async def _read_answer(response: aiohttp.ClientResponse, longest: int) -> bytes:
    status = printable(f"{response.status} {response.reason}")
    if response.status in RETRIED_STATUS or response.status >= 500:
        raise BadAnswer(f"it answered {status}")
    if 300 <= response.status < 400:
        place = printable(response.headers.get("Location", "nowhere"))
        raise Refused(
            f"redirects to {place}, and redirects are not followed; name that address if the prompts may go there",
            response.status,
        )
    if response.status != 200:
        text, _ = await _read(response, LONGEST_REFUSAL)
        raise Refused(f"rejects requests: {status}: {quote(text)}", response.status, text)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise BadAnswer("its answer is compressed, although the request says identity")
    answer, is_whole = await _read(response, longest)
    if not is_whole:
        raise BadAnswer(f"its answer is longer than {longest} bytes")
    return answer


async def _read(response: aiohttp.ClientResponse, most: int) -> tuple[bytes, bool]:
    """The first `most` bytes of an answer, and whether that is all of it."""
    found = bytearray()
    async for chunk in response.content.iter_any():
        found += chunk
        if len(found) > most:
            return bytes(found[:most]), False
    return bytes(found), True


def parse(answer: bytes) -> Any:
    """An answer in JSON. Raises `BadAnswer`."""
    try:
        return parse_json(answer, allow_nan=True)
    except Unreadable as error:
        raise BadAnswer(f"its answer {error}") from None


def quote(text: bytes) -> str:
    """The beginning of a stranger's text."""
    return printable(text.decode(errors="replace"))


def printable(text: str) -> str:
    """A stranger's text without control characters, such as those that steer a terminal, on one line."""
    return "".join(character if character.isprintable() else " " for character in text)[:LONGEST_QUOTE]

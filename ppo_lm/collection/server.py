"""The server of the web page: hands out pairs, takes answers. Data is only ever shown as text; it never becomes HTML or
a path."""

from __future__ import annotations

import asyncio
import datetime
import hmac
import ipaddress
import sys
from pathlib import Path

from aiohttp import web

from ppo_lm.collection.answers import CHOICES, AnswerStore
from ppo_lm.collection.pairs import Pairs
from ppo_lm.collection.schedule import Schedule
from ppo_lm.data.examples import show_prompt
from ppo_lm.errors import StorageError
from ppo_lm.reading import Unreadable, parse_json

PAGE = Path(__file__).parent / "page.html"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the address may hold the token
    "Cache-Control": "no-store",
}
LONGEST_LOOK = 10**9  # seconds at a pair


def make_app(
    pairs: Pairs, schedule: Schedule, store: AnswerStore, annotator: str, token: str | None
) -> web.Application:
    """The application. With a `token`, every request must carry it; without one, requests must be addressed to this
    machine."""

    @web.middleware
    async def guard(request: web.Request, handler):
        try:
            check_sender(request, token)
            response = await handler(request)
        except web.HTTPException as refusal:
            refusal.headers.update(HEADERS)
            raise
        response.headers.update(HEADERS)
        return response

    async def page(request: web.Request) -> web.Response:
        return web.Response(text=PAGE.read_text(encoding="utf-8"), content_type="text/html")

    async def next_pair(request: web.Request) -> web.Response:
        number = len(store.answers)
        right, judged = store.agreement()
        progress = {"done": number, "total": schedule.tasks, "agreed": right, "repeated": judged}
        if number >= schedule.tasks:
            return web.json_response({**progress, "finished": True})
        prompt, a, b = await asyncio.to_thread(shown, pairs, schedule, number)
        return web.json_response(
            {
                **progress,
                "finished": False,
                "task": number,
                "prompt": show_prompt(prompt, between="\n\n"),
                "a": a,
                "b": b,
            }
        )

    async def take_answer(request: web.Request) -> web.Response:
        if request.content_type != "application/json":  # other sites cannot send this without a preflight
            raise web.HTTPUnsupportedMediaType(text="send JSON")
        task, choice, seconds = read_answer(await request.read())
        async with answering:
            number = len(store.answers)
            if task != number or number >= schedule.tasks:
                raise web.HTTPConflict(text="this pair has already been answered")  # in a second window, say
            record = await asyncio.to_thread(make_answer, pairs, schedule, number, choice, annotator, seconds)
            try:
                store.add(record)
            except StorageError as error:
                problem = f"{error}, then answer again"
                print(f"error: {problem}", file=sys.stderr)
                raise web.HTTPInsufficientStorage(text=problem) from None
        return await next_pair(request)

    answering = asyncio.Lock()
    app = web.Application(middlewares=[guard])
    app.add_routes([web.get("/", page), web.get("/pair", next_pair), web.post("/answer", take_answer)])
    return app


def check_sender(request: web.Request, token: str | None) -> None:
    """Raise `HTTPForbidden` unless the request carries the token or, if there is none, is addressed to this
    machine."""
    if token is not None:
        given = request.headers.get("X-Token") or request.query.get("token", "")
        if not hmac.compare_digest(given.encode(errors="replace"), token.encode()):
            raise web.HTTPForbidden(text="This page needs the token that ppo-lm collect printed.")
        return
    try:
        host = request.url.host or ""
    except ValueError:
        raise web.HTTPBadRequest(text="the Host header is not an address") from None
    if not is_loopback(host):  # DNS rebinding: a foreign name that points here
        raise web.HTTPForbidden(text="This page can only be opened at this machine's own address.")


def read_answer(body: bytes) -> tuple[int, str, float | None]:
    """(task, choice, seconds) of a request. Raises `HTTPBadRequest` unless each has its type."""
    try:
        given = parse_json(body)
    except Unreadable as error:
        raise web.HTTPBadRequest(text=f"the request {error}") from None
    if not isinstance(given, dict):
        raise web.HTTPBadRequest(text="send an object with task, answer and seconds")
    task, choice, seconds = given.get("task"), given.get("answer"), given.get("seconds")
    if type(task) is not int:
        raise web.HTTPBadRequest(text="task must be a whole number")
    if not isinstance(choice, str) or choice not in CHOICES:
        raise web.HTTPBadRequest(text=f"answer must be one of {', '.join(CHOICES)}")
    if seconds is not None and not (type(seconds) in (int, float) and 0 <= seconds < LONGEST_LOOK):
        raise web.HTTPBadRequest(text="seconds must be a number of seconds")
    return task, choice, seconds


def shown(pairs: Pairs, schedule: Schedule, number: int) -> tuple:
    """(prompt, A, B) of task `number`, as shown on the page."""
    task = schedule.task(number)
    prompt, first, second = pairs.pair(task.pair)
    return (prompt, second, first) if task.swapped else (prompt, first, second)


def make_answer(
    pairs: Pairs, schedule: Schedule, number: int, choice: str, annotator: str, seconds: float | None
) -> dict:
    """The record of an answer. `preferred` is first, second or tie, independent of the sides; None if skipped."""
    task = schedule.task(number)
    prompt, first, second = pairs.pair(task.pair)
    preferred = {
        "a": "second" if task.swapped else "first",
        "b": "first" if task.swapped else "second",
        "tie": "tie",
        "skip": None,
    }[choice]
    return {
        "task": number,
        "pair": task.pair,
        "repeat_of": task.repeat_of,
        "prompt": prompt,
        "first": first,
        "second": second,
        "swapped": task.swapped,
        "answer": choice,
        "preferred": preferred,
        "annotator": annotator,
        "seconds": seconds,
        "at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine's own name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

"""One exchange with a service. tests/rewards/test_remote.py disturbs it in every way."""

import asyncio

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ppo_lm.services import BadAnswer, Refused, exchange, open_session, parse, run

pytestmark = pytest.mark.fast


def ask(answer, body=None, longest=1000):
    """What `exchange` returns for a service that answers with `answer(request)`."""

    async def ask():
        app = web.Application()
        app.router.add_route("*", "/", answer)
        async with TestServer(app) as server, open_session(aiohttp.ClientTimeout(total=5)) as session:
            return await exchange(session, str(server.make_url("/")), body, longest=longest)

    return run(ask())


async def echo(request):
    return web.json_response(
        {"method": request.method, "body": await request.json() if request.can_read_body else None}
    )


def test_a_body_is_posted_and_without_one_it_is_asked_for():
    assert parse(ask(echo, {"a": [1]})) == {"method": "POST", "body": {"a": [1]}}
    assert parse(ask(echo)) == {"method": "GET", "body": None}


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (web.Response(status=503), BadAnswer, "it answered 503 Service Unavailable"),
        (web.Response(status=429), BadAnswer, "it answered 429"),
        (web.Response(body=b"x" * 1001), BadAnswer, "longer than 1000 bytes"),
        (web.Response(status=307, headers={"Location": "http://evil"}), Refused, "redirects to http://evil, and"),
        (web.Response(status=403, text="\x1b[2Jno"), Refused, r"rejects requests: 403 Forbidden:  \[2Jno"),
    ],
)
def test_what_is_not_an_answer_says_whether_to_try_again(answer, error, message):
    async def give(_):
        return answer

    with pytest.raises(error, match=message) as caught:
        ask(give)
    if error is Refused:
        assert caught.value.status == answer.status


def test_a_service_that_is_not_there_is_a_bad_answer():
    async def ask():
        async with open_session(aiohttp.ClientTimeout(total=5)) as session:
            await exchange(session, "http://127.0.0.1:9", longest=10)

    with pytest.raises(BadAnswer, match="Cannot connect to host 127.0.0.1:9"):
        run(ask())


def test_what_would_end_the_loop_is_raised_where_it_was_waited_for():
    async def leave():
        raise SystemExit(3)

    async def go_on():
        return await asyncio.sleep(0, "still there")

    with pytest.raises(SystemExit):
        run(leave())
    assert run(go_on()) == "still there"

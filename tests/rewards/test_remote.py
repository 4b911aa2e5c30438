"""A remote scorer that fails in every possible way: it is retried, good answers are kept, and in the end there is one
sentence."""

import asyncio
import datetime
import json
import resource
import threading
import time
import zlib
from dataclasses import dataclass

import pytest
from aiohttp import web

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.errors import RewardError, RunPaused
from ppo_lm.rewards import RemoteReward, load_reward
from tests.conftest import opinions


class Server:
    """Runs `handle(request_number, body) -> answer` in a thread. An answer is JSON-able, a web.Response, a number of
    seconds to sleep first, or a coroutine function of the request."""

    def __init__(self, handle):
        self.handle, self.requests = handle, []
        self.loop, self.ready = asyncio.new_event_loop(), threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.thread.start()
        self.ready.wait()
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()

    def _run(self):
        asyncio.set_event_loop(self.loop)

        async def answer(request):
            body = await request.json()
            self.requests.append(body)
            result = self.handle(len(self.requests), body)
            if isinstance(result, float):
                await asyncio.sleep(result)
                result = {"scores": [0.0] * len(body["completions"])}
            if asyncio.iscoroutinefunction(result):
                return await result(request)
            return (
                result
                if isinstance(result, web.StreamResponse)
                else web.Response(text=json.dumps(result), content_type="application/json")
            )

        app = web.Application()
        app.router.add_post("/", answer)
        runner = web.AppRunner(app)
        self.loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self.loop.run_until_complete(site.start())
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/"
        self.ready.set()
        self.loop.run_forever()
        self.loop.run_until_complete(runner.cleanup())


def lengths(body):
    return {"scores": [len(completion) for completion in body["completions"]]}


def test_the_schema_and_the_order_of_the_scores():
    @dataclass
    class Fact:
        name: str

    texts = ["x" * n for n in range(10)]
    with Server(lambda _, body: lengths(body)) as server:
        scores = opinions(
            RemoteReward(server.url, batch_size=4),
            ["p"] * 10,
            texts,
            {"facts": [Fact(str(n)) for n in range(10)], "id": list(range(10))},
        )
    assert scores == [float(n) for n in range(10)]
    bodies = sorted(server.requests, key=lambda body: body["columns"]["id"])
    assert [len(body["completions"]) for body in bodies] == [4, 4, 2]
    assert bodies[0] == {
        "prompts": ["p"] * 4,
        "completions": texts[:4],
        "columns": {"facts": [{"name": str(n)} for n in range(4)], "id": [0, 1, 2, 3]},
    }


def test_any_column_can_be_sent():
    @dataclass
    class Fact:
        when: datetime.date

    columns = {"facts": [[Fact(datetime.date(2026, 1, 2))]], "n": [float("nan")], "day": [datetime.date(2026, 1, 2)]}
    with Server(lambda _, body: lengths(body)) as server:
        opinions(RemoteReward(server.url), ["p"], ["c"], columns)
    assert server.requests[0]["columns"] == {"facts": [[{"when": "2026-01-02"}]], "n": [None], "day": ["2026-01-02"]}


def test_requests_run_side_by_side():
    with Server(lambda *_: 0.3) as server:
        started = time.perf_counter()
        opinions(RemoteReward(server.url, batch_size=1, concurrency=8), ["p"] * 8, ["c"] * 8)
        assert time.perf_counter() - started < 1.5  # 2.4 s one after the other


FAILURES = {
    "500 twice": lambda n, body: web.Response(status=500) if n <= 2 else lengths(body),
    "busy": lambda n, body: web.Response(status=429) if n <= 2 else lengths(body),
    "a timeout": lambda n, body: 1.0 if n == 1 else lengths(body),
    "NaN": lambda n, body: {"scores": [float("nan")] * 2} if n == 1 else lengths(body),
    "one score too few": lambda n, body: {"scores": [1.0]} if n == 1 else lengths(body),
    "a text": lambda n, body: {"scores": ["good", 1]} if n == 1 else lengths(body),
    "no scores": lambda n, body: {"results": []} if n == 1 else lengths(body),
    "no JSON": lambda n, body: web.Response(text="<html>") if n == 1 else lengths(body),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_temporary_failure_is_retried(failure):
    with Server(FAILURES[failure]) as server:
        assert opinions(RemoteReward(server.url, timeout=0.5, wait=0.01), ["p", "q"], ["one", "three"]) == [3.0, 5.0]
    assert len(server.requests) == (3 if failure in ("500 twice", "busy") else 2)


def test_only_the_failed_request_is_retried():
    failed = []

    def handle(_, body):
        if body["completions"][0] == "b" and not failed:
            failed.append(1)
            return web.Response(status=503)
        return lengths(body)

    with Server(handle) as server:
        assert opinions(RemoteReward(server.url, batch_size=1, wait=0.01), ["p"] * 3, ["a", "b", "c"]) == [1.0] * 3
    assert sorted(body["completions"][0] for body in server.requests) == ["a", "b", "b", "c"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            lambda n, body: web.Response(status=500),
            "failed 3 times: it answered 500 Internal Server Error; check that it is running",
        ),
        (lambda n, body: 1.0, "failed 3 times: no answer in time"),
        (lambda n, body: {"scores": [float("nan"), 1]}, "failed 3 times: it returned nan for completion 0 of 2"),
        (lambda n, body: {"scores": [1]}, "failed 3 times: it returned 1 scores for 2 completions"),
        (lambda n, body: web.Response(status=404), "rejects requests: 404 Not Found"),
    ],
)
def test_a_permanent_failure_is_reported_in_one_sentence(answer, message):
    with Server(answer) as server, pytest.raises(RewardError, match=message) as caught:
        opinions(RemoteReward(server.url, timeout=0.2, attempts=3, wait=0.01), ["p", "q"], ["one", "three"])
    assert server.url in str(caught.value)
    assert len(server.requests) == (1 if "rejects" in message else 3)


async def never_ending(request):
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 2**16)


def text(body, **options):
    return lambda *_: web.Response(body=body, **options)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda *_: never_ending, "failed 2 times: its answer is longer than 1050624 bytes"),
        (text(b"[" * 2**20), "failed 2 times: its answer is nested more than 64 deep"),
        (text(zlib.compress(b" " * 2**24), headers={"Content-Encoding": "deflate"}), "its answer is compressed"),
        (text(b'{"scores": [0.5, 1]} \xff'), "failed 2 times: its answer is not UTF-8"),
        (
            text(b'{"scores": [1, ' + b"9" * 10**5 + b"]}"),
            "failed 2 times: its answer has a number with 100,000 digits",
        ),
        (text(b'{"scores": [1, ' + b"9" * 400 + b"]}"), "failed 2 times: its answer has a number with 400 digits"),
        (text(b'{"scores": [1, [[1]]]}'), r"failed 2 times: it returned \[\[1\]\] for completion 1 of 2"),
        (text(b'{"scores": [1, "\\u001b[2J"]}'), r"failed 2 times: it returned '\\x1b\[2J' for completion 1 of 2"),
        (text(b"\x1b[2Jgo away" * 10**6, status=403), r"rejects requests: 403 Forbidden:  \[2Jgo away"),
        (text(b"\xff\xfe", status=403), "rejects requests: 403 Forbidden: \ufffd"),
    ],
)
def test_whatever_comes_over_the_network_is_bounded(answer, message):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Server(answer) as server, pytest.raises(RewardError, match=message) as caught:
        opinions(RemoteReward(server.url, timeout=20, attempts=2, wait=0.01), ["p", "q"], ["one", "three"])
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB


def test_a_redirect_is_not_followed():
    with Server(lambda _, body: lengths(body)) as elsewhere:
        moved = web.Response(status=307, headers={"Location": elsewhere.url})
        with Server(lambda *_: moved) as server, pytest.raises(RewardError, match="redirects to http://") as caught:
            opinions(RemoteReward(server.url), ["secret"], ["one"])
    assert elsewhere.url in str(caught.value)
    assert elsewhere.requests == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b'{"scores": [1, ' + b"9" * 400 + b"]}", "failed 2 times: its answer has a number with 400 digits"),
        (b"[" * 2**20, "failed 2 times: its answer is nested"),
    ],
    ids=["a giant integer", "nested"],
)
def test_an_answer_that_cannot_be_read_pauses_the_run(answer, message, folder, tmp_path):
    sizes = {"steps": 1, "batch_size": 2, "max_new_tokens": 4, "eval_prompts": 0}
    config = PPOConfig(model_name=folder, output_dir=str(tmp_path / "run"), **sizes)
    with Server(text(answer)) as server, pytest.raises(RunPaused, match=message) as caught:
        PPOTrainer(config, reward=RemoteReward(server.url, attempts=2, wait=0.01)).train(["One", "Two"], quiet=True)
    assert "The run was saved as it was after step 0" in str(caught.value)


def test_no_server_at_all():
    with pytest.raises(RewardError, match="failed 2 times: .*; check that it is running and can be reached"):
        opinions(RemoteReward("http://127.0.0.1:9/", attempts=2, wait=0.01), ["p"], ["c"])


def test_null_is_no_opinion():
    with Server(lambda *_: {"scores": [None, 1]}) as server:
        assert opinions(RemoteReward(server.url), ["p", "q"], ["a", "b"]) == [None, 1.0]


def test_how_a_configuration_names_it():
    assert load_reward("http://localhost:8000/score").url == "http://localhost:8000/score"
    scorer = load_reward("remote(url='https://scores.example/v1', timeout=5, attempts=2, batch_size=4)")
    assert (scorer.url, scorer.timeout, scorer.attempts, scorer.batch_size) == ("https://scores.example/v1", 5, 2, 4)
    with pytest.raises(RewardError, match="unexpected keyword argument 'retries'"):
        load_reward("remote(url='http://a', retries=2)")
    with pytest.raises(RewardError, match="concurrency is 0; it must be above 0"):
        load_reward("remote(url='http://a', concurrency=0)")

import asyncio
import errno
import json
import math
import re
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from ppo_lm.collection.answers import AnswerStore
from ppo_lm.collection.pairs import FilePairs, load_pairs
from ppo_lm.collection.schedule import Schedule
from ppo_lm.collection.server import make_app
from ppo_lm.collection.stage import check_same_collection, check_same_pairs, run_collection
from ppo_lm.config import CollectConfig
from ppo_lm.data import Preference, load_preferences
from ppo_lm.errors import ConfigError, DataError, StorageError, UserError
from ppo_lm.run import write_config
from ppo_lm.run.folder import lock_run_folder, unlock
from tests.conftest import files_up_to

pytestmark = pytest.mark.fast

FEEDBACK_PAGE = Path(__file__).parents[2] / "docs" / "feedback.md"

PAIRS = FilePairs([Preference(f"prompt {i}", f" first {i}", f" second {i}") for i in range(12)])


def test_every_pair_comes_once_and_repeats_show_earlier_pairs_with_sides_swapped():
    schedule = Schedule(20, repeat_every=5, seed=3)
    tasks = [schedule.task(number) for number in range(schedule.tasks)]
    fresh = [task for task in tasks if task.repeat_of is None]
    assert sorted(task.pair for task in fresh) == list(range(20))
    assert [task.number for task in tasks if task.repeat_of is not None] == [4, 9, 14, 19]
    for task in tasks:
        if task.repeat_of is not None:
            first = tasks[task.repeat_of]
            assert task.repeat_of < task.number and first.repeat_of is None
            assert (task.pair, task.swapped) == (first.pair, not first.swapped)
    assert 0 < sum(task.swapped for task in fresh) < 20
    assert [schedule.task(n) for n in range(5)] == tasks[:5]  # the same after a restart
    assert Schedule(20, 0, 3).tasks == 20 and Schedule(20, 5, 3).tasks == 24 and Schedule(4, 5, 3).tasks == 4


def ask(app, conversation):
    """Run `conversation(client)` against the application."""

    async def run():
        async with TestClient(TestServer(app)) as client:
            return await conversation(client)

    return asyncio.run(run())


def make(tmp_path, repeat_every=0, token=None):
    store = AnswerStore(tmp_path)
    return store, make_app(PAIRS, Schedule(len(PAIRS), repeat_every, 0), store, "ann", token)


async def judge(client, choose, count, **headers):
    """Answer `count` pairs with `choose(pair)`; returns the last answer's reply."""
    pair = await (await client.get("/pair", headers=headers)).json()
    for _ in range(count):
        answer = {"task": pair["task"], "answer": choose(pair), "seconds": 1.5}
        pair = await (await client.post("/answer", json=answer, headers=headers)).json()
    return pair


prefers_first = lambda pair: "a" if pair["a"].startswith(" first") else "b"  # noqa: E731


def test_what_was_chosen_is_recorded_whichever_side_it_was_on(tmp_path):
    store, app = make(tmp_path)
    done = ask(app, lambda client: judge(client, prefers_first, 12))
    assert done["finished"] and (done["done"], done["total"]) == (12, 12)
    assert {answer["answer"] for answer in store.answers} == {"a", "b"}  # both sides came up
    assert all(
        answer["preferred"] == "first" and answer["annotator"] == "ann" and answer["seconds"] == 1.5
        for answer in store.answers
    )
    preferences, _ = load_preferences(str(tmp_path / "preferences.jsonl"), source_column="source")
    assert sorted(p.prompt for p in preferences) == sorted(f"prompt {i}" for i in range(12))
    assert all(
        p.chosen.startswith(" first") and p.rejected.startswith(" second") and p.source == "ann" for p in preferences
    )


def test_agreement_counts_repeated_pairs_judged_alike(tmp_path):
    done = ask(make(tmp_path, repeat_every=4)[1], lambda client: judge(client, prefers_first, 8))
    assert (done["agreed"], done["repeated"]) == (2, 2)
    wrong = lambda pair: "b" if prefers_first(pair) == "a" else "a"  # noqa: E731
    done = ask(
        make(tmp_path, repeat_every=4)[1],
        lambda client: judge(client, lambda pair: prefers_first(pair) if pair["done"] < 11 else wrong(pair), 4),
    )
    assert (done["agreed"], done["repeated"]) == (2, 3)
    assert len((tmp_path / "preferences.jsonl").read_text().splitlines()) == 9  # repeated pairs are not exported
    store, app = make(tmp_path, repeat_every=4)
    done = ask(app, lambda client: judge(client, lambda pair: "skip", 3))
    assert done["finished"] and store.agreement() == (2, 3)


def test_ties_and_skips_are_kept_but_not_exported(tmp_path):
    store, app = make(tmp_path)
    choices = iter(["tie", "skip", "a"])
    ask(app, lambda client: judge(client, lambda pair: next(choices), 3))
    assert [answer["preferred"] for answer in store.answers][:2] == ["tie", None]
    assert len((tmp_path / "preferences.jsonl").read_text().splitlines()) == 1


def test_a_restart_continues_and_drops_a_half_written_last_line(tmp_path):
    ask(make(tmp_path)[1], lambda client: judge(client, prefers_first, 5))
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"task": 5, "pai')
    (tmp_path / "preferences.jsonl").unlink()
    store, app = make(tmp_path)
    assert len(store.answers) == 5 and len((tmp_path / "preferences.jsonl").read_text().splitlines()) == 5
    done = ask(app, lambda client: judge(client, prefers_first, 7))
    assert done["finished"]
    assert [json.loads(line)["task"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()] == list(
        range(12)
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [(b"oops", "is not JSON"), (b"[1]", "is not an answer"), (b"{}", "is not an answer"), (b"\xff", "UTF-8")],
)
def test_a_damaged_line_is_named(tmp_path, line, problem):
    ask(make(tmp_path)[1], lambda client: judge(client, prefers_first, 2))
    file = tmp_path / "answers.jsonl"
    first, second = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([first, line, second, b""]))
    with pytest.raises(DataError, match=f"line 2 .*{problem}"):
        AnswerStore(tmp_path)


@pytest.mark.parametrize("room", [0, 1, 20, 10**9], ids=lambda room: f"{room} bytes")
def test_an_answer_is_confirmed_only_if_it_is_on_disk_and_can_be_given_again(tmp_path, monkeypatch, capsys, room):
    store, app = make(tmp_path)
    files = tmp_path / "answers.jsonl", tmp_path / "preferences.jsonl"

    async def conversation(client):
        pair = await judge(client, prefers_first, 3)
        before = [file.read_bytes() for file in files]
        answer = {"task": pair["task"], "answer": "a", "seconds": 1.5}
        with monkeypatch.context() as full:
            if room > 10**6:  # everything fits, but does not get to the disk
                full.setattr("ppo_lm.collection.answers.os.fsync", fails)
            with files_up_to(len(before[0]) + room):
                refused = await client.post("/answer", json=answer)
        said = "cannot be written: .*; free some space or fix the path, then answer again"
        assert refused.status == 507 and re.search(said, await refused.text())
        assert re.search(f"error: .*answers.jsonl {said}", capsys.readouterr().err)
        assert [file.read_bytes() for file in files] == before and len(store.answers) == 3
        assert (await client.post("/answer", json=answer)).status == 200

    ask(app, conversation)
    assert [answer["task"] for answer in AnswerStore(tmp_path).answers] == [0, 1, 2, 3]


def fails(*_):
    raise OSError(errno.EIO, "Input/output error")


def test_what_a_disk_keeps_of_a_failed_answer_is_never_glued_to_the_next(tmp_path, monkeypatch):
    """The disk does not even let the file be cut."""
    store, app = make(tmp_path)
    ask(app, lambda client: judge(client, prefers_first, 2))
    size = (tmp_path / "answers.jsonl").stat().st_size
    with monkeypatch.context() as full, files_up_to(size + 30):
        full.setattr("ppo_lm.collection.answers.os.truncate", fails)
        with pytest.raises(StorageError):
            store.add({**store.answers[1], "task": 2})
    assert (tmp_path / "answers.jsonl").stat().st_size == size + 30
    restarted = AnswerStore(tmp_path)
    assert [answer["task"] for answer in restarted.answers] == [0, 1]
    assert "was incomplete, so that answer was never confirmed; it is removed" in restarted.notices[0]
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"task": 2, "pai')
    restarted.add({**store.answers[1], "task": 2})
    assert [answer["task"] for answer in AnswerStore(tmp_path).answers] == [0, 1, 2]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"task": 0, "answer": "c"}, 400),
        ({"task": 0, "answer": ["a"]}, 400),
        ({"task": 0, "answer": {}}, 400),
        ({"task": 5, "answer": "a"}, 409),
        ({"task": False, "answer": "a"}, 400),
        ({"task": 0.0, "answer": "a"}, 400),
        ({"answer": "a"}, 400),
        ({"task": 0, "answer": "a", "seconds": True}, 400),
        ({"task": 0, "answer": "a", "seconds": math.nan}, 400),
        ({"task": 0, "answer": "a", "seconds": 10**400}, 400),
        ({"task": 0, "answer": "a", "seconds": "1"}, 400),
        ([1], 400),
    ],
)
def test_wrong_answers_are_refused_and_nothing_is_written(tmp_path, body, status):
    store, app = make(tmp_path)
    assert ask(app, lambda client: post_status(client, json=body)) == status
    assert store.answers == [] and not (tmp_path / "answers.jsonl").exists()


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"task": 0, "answer": "a"} \xff', b"[" * 10**5, b'{"task": ' + b"9" * 10**4 + b"}"]
)
def test_a_malformed_request_is_refused_without_a_traceback(tmp_path, body, caplog):
    headers = {"Content-Type": "application/json; charset=nonsense"}
    assert ask(make(tmp_path)[1], lambda client: post_status(client, data=body, headers=headers)) == 400
    assert "Traceback" not in caplog.text


def test_a_strange_sender_is_refused_without_a_traceback(tmp_path, caplog):
    async def statuses(client):
        found = [(await client.get("/pair", headers={"X-Token": "s\udcffcret"})).status]
        return [*found, (await client.get("/pair?token=%ff%fe")).status]

    assert ask(make(tmp_path, token="secret")[1], statuses) == [403, 403]
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("path", ["/", "/pair", "/nowhere"])
def test_no_other_site_can_frame_the_page_or_have_it_guessed_at(tmp_path, path):
    async def headers(client):
        return (await client.get(path)).headers

    found = ask(make(tmp_path)[1], headers)
    assert "frame-ancestors 'none'" in found["Content-Security-Policy"]
    assert found["X-Content-Type-Options"] == "nosniff"
    assert found["Referrer-Policy"] == "no-referrer"


async def post_status(client, **request):
    return (await client.post("/answer", **request)).status


def test_requests_and_answers_are_as_documented(tmp_path):
    examples = re.findall(r"`(\{.*?\})`", FEEDBACK_PAGE.read_text())
    task, answer = map(json.loads, examples)

    async def first_two(client):
        return await (await client.get("/pair")).json(), await (await client.post("/answer", json=answer)).json()

    shown, following = ask(make(tmp_path)[1], first_two)
    assert shown.keys() == following.keys() == task.keys() and following["task"] == answer["task"] + 1


def test_other_sites_cannot_answer(tmp_path):
    app = make(tmp_path)[1]
    assert (
        ask(
            app,
            lambda client: post_status(
                client, data='{"task": 0, "answer": "a"}', headers={"Content-Type": "text/plain"}
            ),
        )
        == 415
    )
    app = make(tmp_path)[1]
    assert (
        ask(app, lambda client: post_status(client, json={"task": 0, "answer": "a"}, headers={"Host": "evil.example"}))
        == 403
    )


def test_with_a_token_every_request_needs_it(tmp_path):
    _, app = make(tmp_path, token="secret")

    async def statuses(client):
        return [
            (await client.get(path)).status
            for path in ("/", "/pair", "/?token=wrong", "/?token=secret", "/pair?token=secret")
        ]

    assert ask(app, statuses) == [403, 403, 403, 200, 200]
    app = make(tmp_path, token="secret")[1]
    assert ask(app, lambda client: judge(client, prefers_first, 1, **{"X-Token": "secret"}))["done"] == 1


def test_a_folder_with_other_settings_is_refused(tmp_path):
    write_config(tmp_path, CollectConfig(pairs="a.jsonl"))
    with pytest.raises(ConfigError, match="holds a run; choose another folder"):
        check_same_collection(CollectConfig(pairs="a.jsonl"), tmp_path)
    (tmp_path / "pairs.sha256").write_text(PAIRS.fingerprint())
    check_same_collection(CollectConfig(pairs="b.jsonl"), tmp_path)  # nothing is answered yet
    (tmp_path / "answers.jsonl").write_text("{}\n")
    check_same_collection(CollectConfig(pairs="a.jsonl", port=1, annotator="you", output_dir="./elsewhere"), tmp_path)
    with pytest.raises(ConfigError, match="other settings .pairs was 'a.jsonl' and is 'b.jsonl'; seed was 0 and is 1."):
        check_same_collection(CollectConfig(pairs="b.jsonl", seed=1), tmp_path)


def test_a_folder_with_answers_to_other_pairs_is_refused(tmp_path):
    (tmp_path / "pairs.sha256").write_text(PAIRS.fingerprint())
    check_same_pairs(FilePairs(PAIRS._pairs[:-1]), tmp_path)  # nothing is answered yet
    (tmp_path / "answers.jsonl").write_text("{}\n")
    check_same_pairs(FilePairs(list(PAIRS._pairs)), tmp_path)
    with pytest.raises(ConfigError, match="the pairs or prompts have changed since the answers"):
        check_same_pairs(FilePairs(PAIRS._pairs[:-1]), tmp_path)


def test_one_folder_serves_one_program_at_a_time(tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "p", "completion_a": " a", "completion_b": " b"}\n')
    lock = lock_run_folder(tmp_path)
    try:
        with pytest.raises(UserError, match="is in use by another process; wait until it ends, or stop it"):
            run_collection(CollectConfig(pairs=str(pairs), output_dir=str(tmp_path)))
    finally:
        unlock(lock)


def test_preferences_from_elsewhere_are_never_overwritten(tmp_path):
    (tmp_path / "preferences.jsonl").write_text("precious\n")
    with pytest.raises(DataError, match="was not written by `ppo-lm collect` and would be overwritten"):
        AnswerStore(tmp_path)
    assert (tmp_path / "preferences.jsonl").read_text() == "precious\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(), "give either pairs .* or prompts"),
        (dict(pairs="a", prompts="b"), "give either pairs"),
        (dict(pairs="a", repeat_every=1), "repeat_every is 1"),
        (dict(pairs="a", max_prompt_tokens=5), "max_prompt_tokens is set but pairs already have completions"),
        (dict(pairs="a", port=70000), "port is 70000; it must be between 0 and 65535"),
    ],
)
def test_invalid_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        CollectConfig(**settings)


def test_live_pairs_are_two_different_samples_and_the_same_after_a_restart(tmp_path):
    prompts = ["SUBREDDIT: r/work TITLE: My boss POST: My boss Tom yelled at me. TL;DR:", "POST: I moved out. TL;DR:"]
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(prompts))
    config = CollectConfig(prompts=str(file), model_name="embedded", max_new_tokens=12)
    pairs, _ = load_pairs(config)
    found = [pairs.pair(number) for number in (0, 1, 0)]
    assert [prompt for prompt, _, _ in found] == [prompts[0], prompts[1], prompts[0]]
    assert all(first != second for _, first, second in found)
    again, _ = load_pairs(config)
    assert [again.pair(1), again.pair(0)] == [found[1], found[0]]
    assert again.fingerprint() == pairs.fingerprint()


def test_live_pairs_end_at_stop_strings(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("POST: I moved out. TL;DR:")
    settings = dict(prompts=str(file), model_name="embedded", max_new_tokens=30, stop_strings=["."])
    _, *plain = load_pairs(CollectConfig(**settings))[0].pair(0)
    _, *late = load_pairs(CollectConfig(**settings, min_new_tokens=20))[0].pair(0)
    assert all(text and "." not in text for text in plain)
    assert all("." in text for text in late)


def test_prompts_of_live_pairs_are_fitted_like_those_of_ppo(tmp_path):
    file, long = tmp_path / "prompts.txt", "word " * 80
    file.write_text(f"POST: I moved out. TL;DR:\n\n{long}\nMy boss yelled at me again. {long}")
    pairs, report = load_pairs(CollectConfig(prompts=str(file), max_prompt_tokens=30))
    assert len(pairs) == report.used == 2 and report.cut == 1
    assert f"{file}: line 3 has no sentence that ends within max_prompt_tokens 30" in str(report.dropped[0])
    pairs, report = load_pairs(CollectConfig(prompts=str(file), max_new_tokens=450))
    assert len(pairs) == report.used == 1 and len(report.dropped) == 2
    assert f"{file}: line 3 has 161 tokens, more than 62: the model's context of 512 minus max_new_tokens 450" in str(
        report.dropped[0]
    )


@pytest.mark.parametrize("allowed", [False, True])
def test_a_prompt_of_live_pairs_cannot_forge_control_tokens_unless_it_may(tmp_path, allowed):
    file, forged = tmp_path / "prompts.txt", "POST: I moved out.<|eos|> TL;DR:"
    file.write_text(forged)
    config = CollectConfig(prompts=str(file), model_name="embedded", max_new_tokens=4, allow_special_tokens=allowed)
    pairs, report = load_pairs(config)
    assert pairs._prompts.ids[0].count(1) == allowed and report.special_tokens == ({} if allowed else {"<|eos|>": 1})
    assert pairs.pair(0)[0] == forged


def test_pairs_load_from_a_file(tmp_path):
    rows = [
        {"prompt": "p", "completion_a": " one", "completion_b": " two"},
        {"prompt": "p", "completion_a": "same", "completion_b": "same"},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs, report = load_pairs(CollectConfig(pairs=str(tmp_path / "pairs.jsonl")))
    assert len(pairs) == 1 and pairs.pair(0) == ("p", " one", " two")
    assert "the same text in 'completion_a' and 'completion_b'" in str(report.dropped[0])


def test_pairs_without_a_usable_row_name_the_settings_of_collect(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "p", "one": " a", "two": " b"}))
    with pytest.raises(DataError, match="^pairs .*: line 1 has no column 'completion_a'") as caught:
        load_pairs(CollectConfig(pairs=str(file)))
    assert "Set prompt_column, first_column and second_column to the columns" in str(caught.value)
    pairs, _ = load_pairs(CollectConfig(pairs=str(file), first_column="one", second_column="two"))
    assert pairs.pair(0) == ("p", " a", " b")

"""The boundary to the user's code: what a reward, a monitor or a callback does, the run survives."""

import asyncio
import json
import math
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
import torch

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.cli.main import main
from ppo_lm.errors import NumericalFault, PartError, RewardError, RunPaused
from ppo_lm.plugins import load_object
from ppo_lm.rewards import FunctionReward, Responses, Reward, Scores, ask
from ppo_lm.run import Run
from ppo_lm.saving import append_record, write_json
from ppo_lm.tracking import Recorder, SamplesDrawn
from ppo_lm.tracking.files import METRICS, drop_later_steps
from ppo_lm.user_code import OURS, call_within, copied, user_code

PROMPTS = ["POST: I moved out. TL;DR:", "POST: My boss yelled. TL;DR:"]
RESPONSES = Responses(PROMPTS, ["one", "two words"], {"tags": [["a"], ["b"]]})


def score(function, responses=RESPONSES, timeout=0.0) -> list:
    return ask(FunctionReward(function), responses, timeout).opinions


def short_run(folder, tmp_path, **settings) -> PPOConfig:
    output_dir = str(tmp_path / "run")
    sizes = {"steps": 3, "batch_size": 2, "max_new_tokens": 4, "eval_prompts": 0}
    return PPOConfig(model_name=folder, output_dir=output_dir, **sizes, **settings)


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class Hostile(list):
    """A list that raises when it is looked at."""

    def __len__(self):
        raise RuntimeError("no length")

    __repr__ = __len__


@pytest.mark.fast
@pytest.mark.parametrize("raised", [SystemExit(0), SystemExit("bye"), GeneratorExit(), asyncio.CancelledError()])
def test_nothing_that_a_reward_raises_gets_past_the_boundary(raised):
    def judge(prompts, completions):
        raise raised

    with pytest.raises(RewardError, match=f"^reward judge raised {type(raised).__name__} on a batch of 2 responses"):
        score(judge)


@pytest.mark.fast
@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("raised", [SystemExit(0), ValueError("no lexicon")])
def test_an_async_reward_that_raises_does_not_hang(raised, one_by_one):
    async def judge_all(prompts, completions):
        raise raised

    async def judge_one(prompt, completion):
        raise raised

    for _ in range(2):  # the event loop lives on
        with pytest.raises(RewardError, match=f"raised {type(raised).__name__}"):
            score(judge_one if one_by_one else judge_all, timeout=20)


@pytest.mark.fast
def test_an_exception_that_cannot_be_printed_is_named():
    def judge(prompts, completions):
        raise Unprintable

    with pytest.raises(RewardError, match="reward judge raised Unprintable on a batch of 2 responses\n") as caught:
        score(judge)
    assert "judge" in caught.value.traceback


@pytest.mark.fast
def test_the_error_shows_the_users_lines_and_none_of_ours(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import json\n\ndef brevity(prompts, completions):\n    return json.loads('{')\n")
    brevity = load_object(f"{file}:brevity", "reward", RewardError)
    with pytest.raises(RewardError) as caught:
        score(brevity)
    message = str(caught.value)
    assert message.startswith("reward brevity raised JSONDecodeError on a batch of 2 responses: Expecting")
    assert f'File "{file}", line 4, in brevity' in message
    assert "return json.loads('{')" in message
    assert "ppo_lm/rewards" not in message
    assert "function_reward.py" in caught.value.traceback


@pytest.mark.fast
def test_a_file_that_ends_the_program_when_loaded_is_reported(tmp_path):
    file = tmp_path / "script.py"
    file.write_text("import sys\n\nsys.exit(0)\n")
    with pytest.raises(RewardError, match=r"raised SystemExit while it was loaded.*\n.*line 3"):
        load_object(f"{file}:f", "reward", RewardError)


@pytest.mark.fast
def test_a_reward_that_sleeps_is_interrupted_at_the_line_where_it_is():
    def judge(prompts, completions):
        try:
            time.sleep(60)
        except Exception:  # as careful reward code does
            return [0.0, 0.0]

    started = time.monotonic()
    with pytest.raises(RewardError, match=r"reward judge did not return within 0\.2 seconds\n") as caught:
        score(judge, timeout=0.2)
    assert time.monotonic() - started < 10
    assert "time.sleep(60)" in str(caught.value)


@pytest.mark.fast
def test_an_async_reward_that_sleeps_is_cancelled():
    cancelled = threading.Event()

    async def judge(prompts, completions):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(RewardError, match="did not return within"):
        score(judge, timeout=0.2)
    assert cancelled.wait(10)


@pytest.mark.fast
def test_the_time_limit_holds_outside_the_main_thread_too():
    found = []

    def work():
        try:
            score(lambda prompts, completions: time.sleep(60), timeout=0.2)
        except RewardError as error:
            found.append(str(error))
        found.append(score(lambda prompts, completions: [1, 2], timeout=20))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(30)
    assert "did not return within 0.2 seconds" in found[0]
    assert found[1] == [1.0, 2.0]


@pytest.mark.fast
def test_a_time_limit_that_is_kept_changes_nothing():
    assert call_within(20, lambda: threading.current_thread() is threading.main_thread())
    assert score(lambda prompts, completions: [0.5, 1], timeout=20) == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        call_within(20, lambda: 1 / 0)


@pytest.mark.fast
def test_what_a_reward_changes_stays_in_the_reward():
    conversation = [{"role": "user", "content": "Hi"}]
    given = Responses([conversation, "plain"], ["a", "b"], {"tags": [["x"], ["y"]], "completion_ids": [[1], [2]]})

    def vandal(prompts, completions, tags, completion_ids):
        prompts[0][0]["content"] = "changed"
        prompts[1] = "changed"
        completions.clear()
        tags[0].append("changed")
        completion_ids[0].clear()
        return [0.0, 0.0]

    score(vandal, given)
    assert conversation == [{"role": "user", "content": "Hi"}]
    assert given.columns == {"tags": [["x"], ["y"]], "completion_ids": [[1], [2]]}
    seen = []
    score(lambda prompts, completions, tags: seen.append((prompts, tags)) or [0, 0], given)
    assert copied((1, [2], {"a": ({"b": 3},)})) == (1, [2], {"a": ({"b": 3},)})
    assert seen == [([conversation, "plain"], [["x"], ["y"]])]


class Vandal(Recorder):
    def step(self, event):
        event.metrics.clear()

    def samples(self, event):
        event.prompts[0][0]["content"] = "changed"
        event.completions.clear()


@pytest.mark.fast
def test_what_a_recorder_changes_stays_in_the_recorder():
    prompts, texts, metrics = [[{"role": "user", "content": "Hi"}]], ["Ho"], {"score": 1.0}
    with Run(PPOConfig(), steps=1, command="{}", recorders=[Vandal()]) as run:
        run.start("test")
        for step in run.steps():
            run.record_step(step, metrics)
            run.record_samples(SamplesDrawn(step, prompts, texts, [1.0], {}))
    assert (prompts, texts, metrics) == ([[{"role": "user", "content": "Hi"}]], ["Ho"], {"score": 1.0})


@pytest.mark.fast
@pytest.mark.parametrize(
    "scores",
    [
        [torch.tensor(1.0), torch.tensor(0.5)],
        [torch.tensor(True), torch.tensor([0.5], requires_grad=True)],
        [np.bool_(True), np.float32(0.5)],
        [np.array(1), Decimal("0.5")],
        torch.tensor([1.0, 0.5], dtype=torch.bfloat16),
        np.array([1, 0.5], dtype=object),
        (True, 0.5),
    ],
)
def test_what_can_be_read_as_a_number_is_taken(scores):
    assert score(lambda prompts, completions: scores) == [1.0, 0.5]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("scores", "error"),
    [
        ([10**400, 0], NumericalFault),
        ([10**5000, 0], NumericalFault),  # more digits than Python prints
        ([torch.tensor(float("nan")), 0], NumericalFault),
        (["1.0", 0], RewardError),
        ([1j, 0], RewardError),
        ([[1.0], 0], RewardError),
        ([torch.ones(2), 0], RewardError),
        ([Unprintable(), 0], RewardError),
        (Hostile([1, 2]), RewardError),
        (Unprintable(), RewardError),
    ],
)
def test_everything_else_is_one_sentence(scores, error):
    with pytest.raises(error, match="reward"):
        score(lambda prompts, completions: scores)


@pytest.mark.fast
def test_users_own_user_errors_keep_their_message():
    with pytest.raises(RewardError, match="^just so$"), user_code("reward x", "now", RewardError):
        raise NumericalFault("just so")


class Quits(Reward):
    name = "quits"

    def score(self, responses):
        raise SystemExit(0)


class Repaired(Reward):
    name = "quits"  # a reward's name belongs to the run

    def score(self, responses):
        return Scores.of([1.0] * len(responses))


class Unready(Quits):
    def make_ready(self, context):
        raise SystemExit(0)


class Unidentified(Quits):
    def identity(self):
        raise SystemExit(0)


class QuitsLater(Recorder):
    def step(self, event):
        if event.step == 2:
            raise SystemExit(0)


@pytest.mark.fast
def test_json_files_have_null_for_what_json_cannot_say(tmp_path):
    file = tmp_path / METRICS
    append_record(file, {"step": 1, "kl": math.nan, "ratio": -math.inf, "fine": 1.5})
    append_record(file, {"step": 2, "kl": 0.5})
    write_json(
        tmp_path / "report.json", {"kl": math.nan, "nested": {"a": [math.inf, (1.0, -math.inf)]}, "path": tmp_path}
    )

    def refuse(constant):
        raise AssertionError(constant)

    first = json.loads(file.read_text().splitlines()[0], parse_constant=refuse)
    assert first == {"step": 1, "kl": None, "ratio": None, "fine": 1.5}
    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert report == {"kl": None, "nested": {"a": [None, [1.0, None]]}, "path": str(tmp_path)}
    rows = drop_later_steps(tmp_path, 2)
    assert math.isnan(rows[0]["kl"])
    assert rows[1] == {"step": 2, "kl": 0.5}


def test_a_keyboard_interrupt_of_the_rewards_own_pauses_the_run(folder, tmp_path):
    def judge(prompts, completions):
        raise KeyboardInterrupt

    with pytest.raises(RunPaused, match="reward judge raised KeyboardInterrupt on a batch of 2 responses"):
        PPOTrainer(short_run(folder, tmp_path), reward=judge).train(PROMPTS, quiet=True)


@pytest.mark.fast
def test_a_keyboard_interrupt_from_the_keyboard_passes():
    def judge(prompts, completions):
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job has none
    try:
        with pytest.raises(KeyboardInterrupt):
            score(judge)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("part", ["reward", "monitor", "recorder"])
def test_a_run_is_paused_and_saved_whatever_its_parts_do(part, folder, tmp_path):
    def fine(prompts, completions):
        return [float(len(completion)) for completion in completions]

    config = short_run(folder, tmp_path)
    reward, monitor = (Quits() if part == "reward" else fine), (Quits() if part == "monitor" else None)
    recorders = [QuitsLater()] if part == "recorder" else []
    with pytest.raises(RunPaused, match="raised SystemExit") as caught:
        PPOTrainer(config, reward=reward, monitor=monitor).train(PROMPTS, recorders=recorders, quiet=True)
    done = 2 if part == "recorder" else 0
    assert f"The run was saved as it was after step {done}" in str(caught.value)
    assert "SystemExit" in (tmp_path / "run" / "traceback.txt").read_text()
    if part != "reward":
        return
    PPOTrainer(config, reward=Repaired()).train(PROMPTS, resume=tmp_path / "run", quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]


@pytest.mark.parametrize(("reward", "when"), [(Unready, "make_ready"), (Unidentified, "identity")])
def test_a_reward_that_ends_the_program_before_the_run_is_reported(reward, when, folder, tmp_path):
    with pytest.raises(RewardError, match=rf"reward quits raised SystemExit in {when}\(\): 0\n.*in {when}"):
        PPOTrainer(short_run(folder, tmp_path), reward=reward()).train(PROMPTS, quiet=True)


@pytest.mark.parametrize("quits", ["quits", "quits_later"])
def test_a_reward_that_ends_the_program_pauses_a_value_run_and_fails_an_evaluation(quits, folder, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "def quits(prompts, completions):\n    raise SystemExit(0)\n\n"
        "async def quits_later(prompts, completions):\n    raise SystemExit(0)\n"
    )
    reward, rows = f"{tmp_path}/mine.py:{quits}", [{"prompt": p, "completion": "I am upset."} for p in PROMPTS * 4]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row | {"n": n}) + "\n" for n, row in enumerate(rows)))
    value = ["value", "--model_name", folder, "--demonstrations", f"{tmp_path}/rows.jsonl", "--reward", reward]
    evaluate = [
        "evaluate",
        "--models",
        f"a={folder}",
        "--models",
        f"b={folder}",
        "--prompts",
        f"{tmp_path}/rows.jsonl",
        "--judge",
        reward,
    ]
    for command, options, code in ((value, [], RunPaused.exit_code), (evaluate, ["--max_new_tokens", "2"], 1)):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--output_dir", f"{tmp_path}/{command[0]}", *options])
        assert ended.value.code == code
        assert f"reward {quits} raised SystemExit" in capsys.readouterr().err


@pytest.mark.parametrize("held_out", [0, 1])
def test_a_monitor_that_sleeps_pauses_the_run(held_out, folder, tmp_path):
    """In a step, and in the evaluation before the first."""
    config = replace(short_run(folder, tmp_path, reward_timeout=0.3), eval_prompts=held_out, batch_size=1)

    def fine(prompts, completions):
        return [1.0] * len(prompts)

    with pytest.raises(RunPaused, match=r"reward sleeps did not return within 0\.3 seconds\n.*in sleeps"):
        PPOTrainer(config, reward=fine, monitor=sleeps).train(PROMPTS, quiet=True)


def sleeps(prompts, completions):
    time.sleep(60)


PARTS = """
import torch
from ppo_lm.advantage import Estimator
from ppo_lm.rollout import RolloutEngine
from ppo_lm.training import PolicyLoss


def quits(pairs, config):
    raise SystemExit(0)


def wrong_shape(pairs, new, config):
    return torch.ones(2, 3) @ torch.ones(2, 3)


class Quits(RolloutEngine):
    def __init__(self, policy, budget):
        pass

    def sample(self, prompt_ids, prompt_mask, settings, uniforms):
        raise ZeroDivisionError


ESTIMATOR, LOSS = Estimator(quits), PolicyLoss(wrong_shape)
"""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"advantage_estimator": "ESTIMATOR"}, r"quits\(\) raised SystemExit in step 1"),
        ({"policy_loss": "LOSS"}, r"wrong_shape\(\) raised RuntimeError in step 1: .*mat1 and mat2"),
        ({"engine": "Quits"}, r"sample\(\) raised ZeroDivisionError in step 1"),
    ],
)
def test_an_estimator_a_loss_or_an_engine_of_ones_own_that_raises_pauses_the_run(settings, message, folder, tmp_path):
    (tmp_path / "parts.py").write_text(PARTS)
    named = {name: f"{tmp_path}/parts.py:{part}" for name, part in settings.items()}
    config = short_run(folder, tmp_path, **named)
    with pytest.raises(RunPaused, match=f"^{message}") as caught:
        PPOTrainer(config, reward=lambda prompts, completions: [1.0, 2.0]).train(PROMPTS, quiet=True)
    assert f'File "{tmp_path}/parts.py"' in str(caught.value)
    assert "saved as it was after step 0" in str(caught.value)
    assert "ppo_trainer.py" in (tmp_path / "run" / "traceback.txt").read_text()


@pytest.mark.fast
@pytest.mark.parametrize(("filename", "error"), [("mine.py", PartError), (str(OURS / "our.py"), RuntimeError)])
def test_an_error_of_ours_is_not_blamed_on_the_user(filename, error):
    code = """
import torch
from ppo_lm.errors import PartError
from ppo_lm.user_code import users_parts

with users_parts("in step 1", PartError):
    torch.nn.Linear(3, 2)(torch.ones(2, 2))
"""
    with pytest.raises(error, match="mat1 and mat2"):
        exec(compile(code, filename, "exec"), {})


def test_the_command_line_shows_the_users_lines_and_exits_with_the_code_of_a_paused_run(folder, tmp_path):
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
            import time
            calls = []

            def slow(prompts, completions):
                calls.append(1)
                if len(calls) == 2:
                    time.sleep(60)
                return [1.0] * len(prompts)
        """)
    )
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
    command = [sys.executable, "-c", "from ppo_lm.cli.main import main; main()", "train"]
    command += ["--model_name", folder, "--prompts", "prompts.jsonl"]
    command += ["--reward", "mine.py:slow", "--reward_timeout", "1", "--steps", "3", "--batch_size", "2"]
    command += ["--max_new_tokens", "4", "--eval_prompts", "0", "--output_dir", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == RunPaused.exit_code, done.stderr
    assert re.search(r"reward slow did not return within 1 seconds\n  File .*mine.py", done.stderr)
    assert "Traceback" not in done.stderr
    assert "saved as it was after step 1" in done.stderr

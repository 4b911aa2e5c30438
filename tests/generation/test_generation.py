"""Answers from models: to given prompts, to a file, and line by line."""

import io
import json
import math
import signal

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ppo_lm import signals
from ppo_lm.base_setup import EMBEDDED_MODEL, load_base
from ppo_lm.cli.main import main
from ppo_lm.config import GenerateConfig
from ppo_lm.errors import ConfigError
from ppo_lm.generation import run_generation, stage
from ppo_lm.generation.streaming import stream
from ppo_lm.models import PolicyModel
from ppo_lm.rollout import PlainEngine, SamplingSettings
from ppo_lm.terminal import printable
from tests.conftest import uniforms
from tests.ppo_trainer.conftest import PROMPTS, length_reward, make

pytestmark = pytest.mark.fast
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def transformers_answer(folder, prompt, tokens=8):
    network, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    made = network.generate(ids, do_sample=False, max_new_tokens=tokens, eos_token_id=1, pad_token_id=0)
    return printable(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))


@pytest.fixture(scope="module")
def run_folder(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    make(folder, out, length_reward, steps=2, eval_prompts=0, eval_every=0).train(PROMPTS, quiet=True)
    return out


def test_greedy_answers_are_those_of_transformers(folder):
    made = run_generation(GenerateConfig(models=[f"it={folder}"], prompt=PROMPTS[:3], temperature=0, max_new_tokens=8))
    assert [row["prompt"] for row in made] == PROMPTS[:3]
    assert [printable(row["completions"]["it"]) for row in made] == [
        transformers_answer(folder, p) for p in PROMPTS[:3]
    ]


def test_base_and_tuned_side_by_side(folder, run_folder, capsys):
    main(["generate", folder, f"tuned={run_folder}", "--prompt", PROMPTS[0], "--max_new_tokens", "6"])
    shown = capsys.readouterr()
    assert f"[{folder}] " in shown.out
    assert "[tuned] " in shown.out
    assert "tuned: " in shown.err  # which policy of the run


def test_the_same_whatever_the_batch(folder):
    settings = dict(models=[f"it={folder}"], prompt=PROMPTS[:4], max_new_tokens=6)
    whole, ones = run_generation(GenerateConfig(**settings), quiet=True), []
    for size in (1, 3):
        ones.append(run_generation(GenerateConfig(**settings, batch_size=size), quiet=True))
    assert ones[0] == ones[1] == whole


def test_from_a_file_to_a_file(folder, tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": p, "topic": n}) + "\n" for n, p in enumerate(PROMPTS)))
    out = tmp_path / "answers.jsonl"
    main(
        [
            "generate",
            f"it={folder}",
            "--prompts",
            str(prompts),
            "--limit",
            "5",
            "--out",
            str(out),
            "--max_new_tokens",
            "6",
        ]
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["prompt"], row["topic"]) for row in rows] == [(PROMPTS[n], n) for n in range(5)]
    assert all(isinstance(row["completions"]["it"], str) for row in rows)
    assert capsys.readouterr().out == f"5 answers written to {out}\n"
    before = out.read_text()
    with pytest.raises(SystemExit) as refused:
        main(["generate", f"it={folder}", "--prompts", str(prompts), "--max_new_tokens", "6", "--out", str(out)])
    assert refused.value.code == 1
    assert out.read_text() == before


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stream_is_what_the_engine_samples(folder, temperature):
    policy, settings = PolicyModel(load_base(folder), None), SamplingSettings(12, temperature, top_k=20)
    ids = policy.base.tokenizer(PROMPTS[0])["input_ids"]
    parts = list(stream(policy, ids, settings, torch.Generator().manual_seed(3)))
    prompt = torch.tensor([ids])
    sampled = PlainEngine(policy).sample(
        prompt, torch.ones_like(prompt, dtype=torch.bool), settings, uniforms(prompt, settings, seed=3)
    )
    assert len(parts) > 2
    assert "".join(parts) == policy.base.tokenizer.decode(sampled.ids[0], skip_special_tokens=True)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stream_never_says_any_of_a_stop_string(folder, temperature):
    """What was said at any time is the beginning of what the response says before the stop string."""
    policy, config = PolicyModel(load_base(folder), None), dict(temperature=temperature, top_k=20)
    ids = policy.base.tokenizer(PROMPTS[0])["input_ids"]
    whole = "".join(stream(policy, ids, SamplingSettings(30, **config), torch.Generator().manual_seed(3)))
    for begin, end in ((0, 2), (7, 12), (11, 30), (len(whole) - 2, len(whole))):
        stop = whole[begin:end]
        settings = SamplingSettings(30, **config, stop_strings=(stop, "not in it"))
        said = ""
        for part in stream(policy, ids, settings, torch.Generator().manual_seed(3)):
            said += part
            assert whole[: whole.index(stop)].startswith(said)
        assert said == whole[: whole.index(stop)]
    settings = SamplingSettings(30, **config, stop_strings=(whole[-3:] + "no",))  # waits for what never comes
    assert "".join(stream(policy, ids, settings, torch.Generator().manual_seed(3))) == whole


def test_answers_end_at_stop_strings_and_not_before_the_fewest_tokens(folder, capsys):
    settings = dict(models=[f"it={folder}"], prompt=PROMPTS[:3], temperature=0, max_new_tokens=8)
    whole = [row["completions"]["it"] for row in run_generation(GenerateConfig(**settings), quiet=True)]
    stop = whole[0][3:6]
    ended = run_generation(GenerateConfig(**settings, stop_strings=[stop]), quiet=True)
    assert [row["completions"]["it"] for row in ended] == [text.partition(stop)[0] for text in whole]
    late = run_generation(GenerateConfig(**settings, stop_strings=[stop], min_new_tokens=8), quiet=True)
    assert [row["completions"]["it"] for row in late] == whole
    config = GenerateConfig(models=[f"it={folder}"], temperature=0, max_new_tokens=8, stop_strings=[stop])
    run_generation(config, source=io.StringIO(f"{PROMPTS[0]}\n"))
    assert capsys.readouterr().out == f"[it] {printable(whole[0].partition(stop)[0])}\n"


def test_a_stop_string_that_is_no_text_of_one_of_the_models_is_refused_before_any_answers(
    folder, tmp_path, monkeypatch
):
    """`STOP` is a special token of the second model only."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["STOP"]})
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    sampled = []
    monkeypatch.setattr("ppo_lm.generation.stage.read_completions", lambda *args: sampled.append(args))
    config = GenerateConfig(models=[folder, str(tmp_path / "other")], prompt=["Hi"], stop_strings=["STOP"])
    with pytest.raises(ConfigError, match="stop_strings has 'STOP', a special token"):
        run_generation(config, quiet=True)
    assert not sampled


def test_lines_are_answered_one_by_one(folder, capsys):
    config = GenerateConfig(models=[f"it={folder}"], temperature=0, max_new_tokens=8)
    run_generation(config, source=io.StringIO(f"{PROMPTS[0]}\n\n{PROMPTS[1]}\n"))
    assert capsys.readouterr().out == "".join(f"[it] {transformers_answer(folder, p)}\n" for p in PROMPTS[:2])


class Keyboard(io.StringIO):
    def isatty(self):
        return True


def test_ctrl_c_stops_one_answer(folder, capsys, monkeypatch):
    def interrupted(*arguments):
        yield "a beginning"
        if "the first" not in said:
            said.append("the first")
            signal.raise_signal(signal.SIGINT)
        yield ", an end"

    said: list[str] = []
    monkeypatch.setattr(signals, "_last", -math.inf)
    monkeypatch.setattr(stage, "stream", interrupted)
    run_generation(GenerateConfig(models=[folder], max_new_tokens=8), Keyboard("a b\nc d\n"))
    assert [line.partition("] ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "a beginning",
        "a beginning, an end",
    ]


def test_sigterm_ends_a_conversation(folder, monkeypatch):
    def ended(*arguments):
        signal.raise_signal(signal.SIGTERM)
        yield "too late"

    monkeypatch.setattr(signals, "_last", -math.inf)  # a signal of another test is not this one, delivered again
    monkeypatch.setattr(stage, "stream", ended)
    with pytest.raises(SystemExit) as exit:
        run_generation(GenerateConfig(models=[folder], max_new_tokens=8), Keyboard("a b\n"))
    assert exit.value.code == 143


def test_a_conversation_is_remembered_until_an_empty_line(folder, tmp_path, capsys, monkeypatch):
    for load in (AutoModelForCausalLM, AutoTokenizer):
        load.from_pretrained(folder).save_pretrained(tmp_path / "chat")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "chat")
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(tmp_path / "chat")
    seen = []
    monkeypatch.setattr(
        "ppo_lm.generation.stage.encode_prompts",
        lambda prompts, base, tokens: seen.append(prompts[0]) or [base.tokenizer("TL;DR:")["input_ids"]],
    )
    config = GenerateConfig(models=[f"it={tmp_path / 'chat'}"], temperature=0, max_new_tokens=3)
    run_generation(config, source=io.StringIO("one\ntwo\n\nthree\n"))
    assert [[turn["role"] for turn in turns] for turns in seen] == [["user"], ["user", "assistant", "user"], ["user"]]
    assert [turns[-1]["content"] for turns in seen] == ["one", "two", "three"]
    answers = [line.removeprefix("[it] ") for line in capsys.readouterr().out.splitlines()]
    assert seen[1][1]["content"] == answers[0]


def test_a_prompt_that_is_too_long_does_not_end_the_conversation(folder, capsys):
    config = GenerateConfig(models=[f"it={folder}"], temperature=0, max_new_tokens=8)
    run_generation(config, source=io.StringIO(f"{'word ' * 500}\n{PROMPTS[0]}\n"))
    shown = capsys.readouterr()
    assert shown.err.startswith("error: prompt 0 ")
    assert shown.out == f"[it] {transformers_answer(folder, PROMPTS[0])}\n"


def test_control_characters_are_escaped(folder, capsys):
    run_generation(GenerateConfig(models=[f"it={folder}"], prompt=["\x1b[31mred TL;DR:"], max_new_tokens=2))
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(models=["./nowhere"], prompt=["a"]), "models names './nowhere', but there is no such file or folder"),
        (dict(models=[str(EMBEDDED_MODEL / "value")], prompt=["a"]), "is a reward or value model"),
        (dict(models=None, prompt=["a"]), "models has no entries; give one"),
        (dict(models=["embedded"], prompts="none.jsonl"), "none.jsonl"),
        (dict(models=["embedded"], prompt=["a"], out="no/such/folder.jsonl"), "there is no folder 'no/such'"),
    ],
)
def test_bad_input_before_any_model_loads(settings, message, monkeypatch):
    monkeypatch.setattr("ppo_lm.generation.stage.load_policies", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(Exception, match=message.replace("(", r"\(")):
        run_generation(GenerateConfig(**settings))


def test_settings_that_clash():
    with pytest.raises(ConfigError, match="prompt and prompts are both set"):
        GenerateConfig(models=["embedded"], prompt=["a"], prompts="b.txt")
    with pytest.raises(ConfigError, match="out is set, but neither prompt nor prompts"):
        GenerateConfig(models=["embedded"], out="b.jsonl")

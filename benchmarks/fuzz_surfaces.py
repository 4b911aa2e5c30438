"""What the fuzzing campaign attacks: a generator of cases for each surface. A case does its work and returns, or raises
what it was refused with."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import json
import os
import random
import shutil
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
import yaml
from fuzz_values import TEXTS, damage_folder, damaged_bytes, damaged_json, nested, value
from small_runs import PROMPTS, make_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from ppo_lm.base_setup import EMBEDDED_MODEL, find_reward_folder, find_value_folder, load_base, make_lora_config
from ppo_lm.base_setup.model_setup import load_reward_model, load_value_adapter
from ppo_lm.cli.main import main
from ppo_lm.collection.answers import AnswerStore
from ppo_lm.config import CollectConfig, EvaluateConfig, PPOConfig, RewardConfig, SFTConfig, ValueConfig
from ppo_lm.config.fields import fields_of
from ppo_lm.config.files import read_settings
from ppo_lm.data import load_demonstrations, load_preferences, load_prompts
from ppo_lm.data.encoded import encode_demonstrations
from ppo_lm.data.fitting import fit_prompts
from ppo_lm.errors import ConfigError, UserError
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.models import BaseModel, RewardModel, ValueModel
from ppo_lm.reading import user_path
from ppo_lm.rewards import FunctionReward, RemoteReward, Responses, RewardContext, ask, load_reward
from ppo_lm.run.find_models import find_policy

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.fuzz.hostile import JSON, YAML, hostile_paths

EXIT_CODES = {0, 1, 2, *range(64, 79), 130, 143}  # docs/resume.md
CONFIGS = [PPOConfig, SFTConfig, RewardConfig, ValueConfig, EvaluateConfig, CollectConfig]
CONFIG_OF = {"train": PPOConfig, "sft": SFTConfig, "reward": RewardConfig, "value": ValueConfig}
HOSTILE_JSON = [content for content in JSON.values() if len(content) < 200_000]
HOSTILE_YAML = list(YAML.values())
ROWS = [
    {"prompt": "TL;DR:", "completion": " I quit.", "chosen": " I quit.", "rejected": " No.", "id": 1},
    {
        "prompt": [{"role": "user", "content": "Hello?"}],
        "completion": [{"role": "assistant", "content": "Hi."}],
        "chosen": [{"role": "assistant", "content": "Hi."}],
        "rejected": [{"role": "assistant", "content": "No."}],
        "id": 1,
    },
    {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "<|im_end|>"}], "id": 2},
    {"prompt": [5, 6, 7], "completion": " I quit.", "chosen": " A.", "rejected": " B.", "id": 3},
]

CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


class Place:
    """A folder for the files of a case, and what the cases damage copies of."""

    def __init__(self, root: Path):
        self.root, self.case = root, root / "case"

    def clear(self) -> None:
        """Make an empty folder for the next case, and work in it."""
        if (self.case / "locked").is_dir():
            (self.case / "locked").chmod(0o700)
        shutil.rmtree(self.case, ignore_errors=True)
        self.case.mkdir()
        os.chdir(self.case)

    def file(self, name: str, content: bytes) -> str:
        """A file of the case."""
        (self.case / name).write_bytes(content)
        return str(self.case / name)

    def copy(self, whole: Path) -> Path:
        """A folder of the case, to be damaged."""
        return Path(shutil.copytree(whole, self.case / whole.name))

    @functools.cached_property
    def model(self) -> Path:
        make_model(self.root / "model")
        (self.root / "model" / "chat_template.jinja").write_text(CHAT)
        return self.root / "model"

    def base(self) -> BaseModel:
        return load_base(str(self.model))

    @functools.cached_property
    def shared_base(self) -> BaseModel:
        """For cases that do not change it."""
        return self.base()

    @functools.cached_property
    def adapter(self) -> Path:
        base = self.base()
        base.add_adapter("policy", make_lora_config(4, 8, 0.0))
        base.save_adapter("policy", self.root / "adapter")
        return self.root / "adapter"

    @functools.cached_property
    def reward(self) -> Path:
        base = self.base()
        base.add_adapter("reward", make_lora_config(4, 8, 0.0))
        RewardModel(base).save(self.root / "reward")
        shutil.rmtree(self.root / "reward" / "classifier")
        return self.root / "reward"

    @functools.cached_property
    def value(self) -> Path:
        base = self.base()
        base.add_adapter("value", make_lora_config(4, 8, 0.0))
        ValueModel(base).save(self.root / "value")
        return self.root / "value"

    @functools.cached_property
    def classifier(self) -> Path:
        tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            num_labels=1,
        )
        LlamaForSequenceClassification(config).save_pretrained(self.root / "classifier")
        tokenizer.save_pretrained(self.root / "classifier")
        return self.root / "classifier"

    @functools.cached_property
    def prompts(self) -> Path:
        (self.root / "prompts.txt").write_text("\n".join(PROMPTS))
        return self.root / "prompts.txt"

    @functools.cached_property
    def finished_run(self) -> Path:
        """Two steps of PPO, with two checkpoints."""
        out = self.root / "run"
        run_command(
            ["train", f"--model_name={self.model}", f"--prompts={self.prompts}", f"--output_dir={out}", *SMALL_RUN]
        )
        last = out / "checkpoints" / "step-000002"
        shutil.copytree(last, last.with_name("step-000002-002"))
        return out

    @functools.cached_property
    def scorer(self) -> Scorer:
        return Scorer()


SMALL_RUN = [
    *("--reward=length_target(words=4)", "--batch_size=4", "--mini_batches=2", "--ppo_epochs=1", "--steps=2"),
    *("--eval_prompts=2", "--save_every=1", "--max_new_tokens=4", "--lora_r=2", "--device=cpu", "--save_merged=false"),
]


@dataclasses.dataclass(frozen=True)
class Surface:
    """`share`: how many of 10,000 cases."""

    share: int
    case: Callable[[random.Random, Place], object]


ANSWER = dict(task=0, repeat_of=None, prompt="a", first="b", second="c", preferred="first", annotator="d")
COSTLY = {
    "steps",
    "epochs",
    "lora_r",
    "max_new_tokens",
    "ppo_epochs",
    "responses_per_prompt",
}  # they take long, rightly
SURFACES: dict[str, Surface] = {}


def surface(share: int) -> Callable[[Callable[[random.Random, Place], object]], None]:
    """Register a function that makes one case of the surface it is named after."""

    def register(case: Callable[[random.Random, Place], object]) -> None:
        SURFACES[case.__name__] = Surface(share, case)

    return register


def run_command(arguments: list[str]) -> None:
    """Call the command line in this process. Raises `UserError` with what it printed if the exit code is not 0, and
    `AssertionError` unless it ends as documented."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as ended:
            code = ended.code or 0
    said = err.getvalue()
    assert code in EXIT_CODES, f"exit code {code}: {said}"
    assert "Traceback" not in said + out.getvalue(), said
    if code:
        assert "rror" in said or "usage" in said, f"exit code {code} without an error: {said!r}"
        raise UserError(said)


# settings


def some_fields(draw: random.Random, config: type) -> dict[str, Any]:
    names = draw.sample(list(fields_of(config)), draw.randrange(1, 4))
    if draw.random() < 0.1:
        names.append(draw.choice(["x", "lr", "é", "modelname", "steps "]))
    return {name: value(draw) for name in names}


@surface(2200)
def settings(draw: random.Random, place: Place) -> None:
    """Fields of configurations with values of all types."""
    config = draw.choice(CONFIGS)
    fields = some_fields(draw, config)
    if draw.random() < 0.05:
        fields[draw.choice(list(fields))] = nested(draw)
    config(**fields)


@surface(1000)
def yaml_files(draw: random.Random, place: Place) -> None:
    """Files of settings, damaged as text."""
    config = draw.choice(CONFIGS)
    plain = dataclasses.asdict(config()) if draw.random() < 0.5 else {}
    text = yaml.safe_dump({**plain, **some_fields(draw, config)}, allow_unicode=True).encode("utf-8", "surrogatepass")
    file = place.file("config.yaml", damaged_bytes(draw, text, HOSTILE_YAML) if draw.random() < 0.8 else text)
    config(**read_settings(Path(file), "--config"))


def some_options(draw: random.Random, command: str) -> list[str]:
    names = [*fields_of(CONFIG_OF[command]), "config", "resume", "overwrite", "allow_changes", "lr", ""]
    options = []
    for _ in range(draw.randrange(1, 6)):
        name = f"--{draw.choice(names)}"
        text = draw.choice([draw.choice(TEXTS), str(draw.randrange(-2, 100)), "[1, [", "1e-5", "true"])
        options += draw.choice([[f"{name}={text}"], [name, text], [name], [text]])
    return options


@surface(800)
def command_lines(draw: random.Random, place: Place) -> None:
    """Options of all commands, up to the settings that follow from them."""
    command = draw.choice(list(CONFIG_OF))
    options = some_options(draw, command)
    run_command([command, "--print_config", *options] if draw.random() < 0.95 else [draw.choice(TEXTS), *options[:1]])


# data


def some_rows(draw: random.Random) -> list[Any]:
    rows = [draw.choice(ROWS) for _ in range(draw.randrange(1, 6))]
    for _ in range(draw.randrange(1, 4)):
        row = draw.randrange(len(rows))
        rows[row] = damaged_json(draw, rows[row])
    return rows


def load_and_encode(draw: random.Random, place: Place, source: Any) -> None:
    """Load data as one of its roles, and encode it as training does."""
    base, role = place.shared_base, draw.randrange(3)
    if role == 0:
        prompts, report = load_prompts(source)
        fit_prompts(prompts, report, base, max_prompt_tokens=draw.choice([0, 8]), max_new_tokens=4)
    elif role == 1:
        demonstrations, report = load_demonstrations(source)
        encode_demonstrations(base, demonstrations, report, max_prompt_tokens=draw.choice([0, 8]), max_tokens=64)
    else:
        load_preferences(source)
    assert str(report if role < 2 else "x")


@surface(1200)
def data_rows(draw: random.Random, place: Place) -> None:
    """Rows of data in Python."""
    rows = some_rows(draw)
    if draw.random() < 0.05:
        rows.append({**ROWS[0], draw.choice(["prompt", "messages", "x"]): nested(draw)})
    load_and_encode(draw, place, rows)


def as_csv(rows: list[Any]) -> bytes:
    named = [row for row in rows if isinstance(row, dict)] or [{"prompt": "a"}]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(named[0]) or ["prompt"], extrasaction="ignore")
    writer.writeheader()
    writer.writerows(named)
    return text.getvalue().encode("utf-8", "surrogatepass")


def as_parquet(rows: list[Any]) -> bytes:
    """Only whole tables can be written; what is not one is left out."""
    written = pyarrow.BufferOutputStream()
    try:
        table = pyarrow.Table.from_pylist([row for row in rows if isinstance(row, dict)])
        pyarrow.parquet.write_table(table, written)
    except (pyarrow.ArrowException, TypeError, OverflowError, UnicodeError, NotImplementedError):
        pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a", None], "id": [1, 2]}), written)
    return written.getvalue().to_pybytes()


WRITERS: dict[str, Callable[[list[Any]], bytes]] = {
    ".jsonl": lambda rows: "\n".join(map(json.dumps, rows)).encode(),
    ".json": lambda rows: json.dumps(rows).encode(),
    ".txt": lambda rows: "\n".join(map(str, rows)).encode("utf-8", "surrogatepass"),
    ".csv": as_csv,
    ".parquet": as_parquet,
}


@surface(1200)
def data_files(draw: random.Random, place: Place) -> None:
    """Files of data of all formats, with damaged rows and damaged bytes."""
    suffix = draw.choice(list(WRITERS))
    content = WRITERS[suffix](some_rows(draw))
    if draw.random() < 0.7:
        content = damaged_bytes(draw, content, HOSTILE_JSON)
    load_and_encode(draw, place, place.file(f"data{suffix}", content))


# models


@surface(250)
def model_folders(draw: random.Random, place: Place) -> None:
    """Folders of models."""
    folder = place.copy(place.model)
    damage_folder(draw, folder, HOSTILE_JSON)
    load_base(str(folder))


@surface(150)
def adapter_folders(draw: random.Random, place: Place) -> None:
    """Folders of adapters, merged into their base."""
    folder = place.copy(place.adapter)
    damage_folder(draw, folder, HOSTILE_JSON)
    load_base(str(folder))


@surface(150)
def reward_folders(draw: random.Random, place: Place) -> None:
    """Folders of reward models, which then score."""
    folder = place.copy(place.reward)
    damage_folder(draw, folder, HOSTILE_JSON)
    found = find_reward_folder(str(folder))
    if found is None:
        load_reward(str(folder))
    else:
        load_reward_model(place.base(), found)


@surface(150)
def value_folders(draw: random.Random, place: Place) -> None:
    """Folders of value models."""
    folder = place.copy(place.value)
    damage_folder(draw, folder, HOSTILE_JSON)
    base, found = place.base(), find_value_folder(str(folder))
    load_value_adapter(base, found)
    ValueModel(base).head.load(found)


@surface(150)
def classifier_folders(draw: random.Random, place: Place) -> None:
    """Folders of sequence classifiers, which then score."""
    folder = place.copy(place.classifier)
    damage_folder(draw, folder, HOSTILE_JSON)
    reward = load_reward(str(folder))
    reward.make_ready(RewardContext.on(place.shared_base, MemoryBudget()))
    ask(reward, Responses(["a", "b"], [" c", ""]))


# runs


def spoil_lines(draw: random.Random, file: Path) -> None:
    lines = file.read_bytes().splitlines()
    row = draw.randrange(len(lines))
    lines[row] = draw.choice(
        [
            lambda: json.dumps(damaged_json(draw, json.loads(lines[row]))).encode(),
            lambda: damaged_bytes(draw, lines[row], HOSTILE_JSON),
        ]
    )()
    file.write_bytes(b"\n".join(lines) + draw.choice([b"\n", b""]))


@surface(150)
def checkpoints(draw: random.Random, place: Place) -> None:
    """Runs with damaged checkpoints, settings or records, resumed for one more step."""
    run = place.copy(place.finished_run)
    kind = draw.randrange(4)
    if kind == 0:
        spoil_lines(draw, run / "metrics.jsonl")
    elif kind == 1:
        (run / "config.yaml").write_bytes(damaged_bytes(draw, (run / "config.yaml").read_bytes(), HOSTILE_YAML))
    else:
        damage_folder(draw, draw.choice(sorted((run / "checkpoints").iterdir())), HOSTILE_JSON)
    run_command(["train", f"--resume={run}", "--steps=3", *draw.choice([[], ["--allow_changes"]])])


@surface(200)
def unfinished_policies(draw: random.Random, place: Place) -> None:
    """The policy of a run whose files are damaged."""
    run = place.copy(place.finished_run)
    damage_folder(draw, run, HOSTILE_JSON)
    load_base(str(find_policy(run).folder))


@surface(300)
def doctor(draw: random.Random, place: Place) -> None:
    """Records of a run, examined."""
    for name in ("config.yaml", "metrics.jsonl"):
        shutil.copy(place.finished_run / name, place.case)
    spoil_lines(draw, place.case / "metrics.jsonl")
    run_command(["doctor", str(place.case)])


# rewards


class Trap:
    """An object whose methods raise."""

    def _raise(self, *_: object) -> Any:
        raise RuntimeError("trapped")

    __len__ = __repr__ = __str__ = __float__ = __bool__ = __getitem__ = __iter__ = __eq__ = _raise
    __hash__ = object.__hash__


class TrappedList(list):
    __len__ = __getitem__ = __iter__ = Trap._raise


class TrappedError(Exception):
    __str__ = __repr__ = Trap._raise


SCORES: list[Callable[[], Any]] = [
    *(lambda each=each: each for each in [None, True, False, 0.5, 10**5000, "0.5", b"1", 1j, (), {}, ..., int, len]),
    *(lambda each=each: each for each in [np.float32(1), np.bool_(True), np.array([1, 2]), np.array("x"), np.nan]),
    *(lambda each=each: torch.tensor(each) for each in [1.0, [1.0, 2.0], [[1.0]], True, float("inf"), [], 1j]),
    lambda: torch.ones(2, requires_grad=True),
    lambda: torch.ones(1, device="meta"),
    lambda: np.array([1, None], dtype=object),
    lambda: np.datetime64("2026-01-01"),
    lambda: range(2),
    lambda: (score for score in (1.0, 2.0)),
    lambda: {1.0, 2.0},
    Trap,
    TrappedList,
    lambda: [Trap()],
    lambda: float,
]
ERRORS: list[Callable[[], BaseException]] = [
    *(lambda kind=kind: kind("x") for kind in (ValueError, SystemExit, GeneratorExit, StopIteration, RecursionError)),
    *(lambda kind=kind: kind() for kind in (MemoryError, OSError, StopAsyncIteration, TrappedError, AssertionError)),
    lambda: SystemExit(0),
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
    lambda: ConfigError.of("theirs"),
    lambda: BaseException("\x1b[2J\ud800"),
]


def some_scores(draw: random.Random, count: int) -> Any:
    kind = draw.randrange(5)
    if kind == 0:
        return draw.choice(SCORES)()
    if kind == 1:
        return value(draw)
    count += draw.choice([0, 0, 0, 0, 1, -1])
    plain = draw.random() < 0.3
    scores = [0.5 if plain else draw.choice([*SCORES, lambda: value(draw, 1)])() for _ in range(count)]
    return draw.choice([list, tuple])(scores)


@surface(1200)
def reward_values(draw: random.Random, place: Place) -> None:
    """What reward functions return or raise: plain, async, and for one sample at a time."""
    error = draw.choice(ERRORS) if draw.random() < 0.2 else None

    def answer(count: int) -> Any:
        if error is not None:
            raise error()
        return some_scores(draw, count)

    async def later(prompts: list, completions: list) -> Any:
        return answer(len(completions))

    async def one_later(completion: Any) -> Any:
        return answer(1)

    functions: list[Callable] = [
        *[lambda prompts, completions: answer(len(completions))] * 3,
        later,
        one_later,
        lambda completion: answer(1),
        lambda **columns: columns["completions"].clear() or answer(2),
    ]
    scores = ask(FunctionReward(draw.choice(functions), "theirs"), Responses(["a", "b"], ["c", "d"]), timeout=5)
    assert not scores.total.isinf().any()


SPECS = [
    *("length_target(words=4)", "tldr_heuristics", "sentiment(", "regex(pattern='(')", "nothing:here", "json:dumps"),
    *("a.py:f", ":", "::", "remote(url='http://127.0.0.1:1/')", "length_target(words=None)", "embedded", "-m"),
    "length_target(words=" + "(" * 300 + ")",
    "length_target(words=" + "-" * 5000 + "1)",
    "length_target(words=" + "9" * 5000 + ")",
    "length_target(words=1e999)",
    "length_target(**{'words': 4})",
]


@surface(600)
def reward_names(draw: random.Random, place: Place) -> None:
    """How rewards are named."""
    name = draw.choice(SPECS)
    if draw.random() < 0.7:
        name = damaged_bytes(draw, name.encode(), [text.encode("utf-8", "replace") for text in TEXTS]).decode(
            "utf-8", "surrogateescape"
        )
    load_reward(name)


@surface(150)
def reward_files(draw: random.Random, place: Place) -> None:
    """Files of Python with a reward in them."""
    source = b"import math\n\ndef score(prompts, completions, answer=None):\n    return [len(c) for c in completions]\n"
    hostile = [b"raise SystemExit(0)", b"(" * 5000, b"import nothing", b"score = 3", b"class score:\n  x = 1 / 0"]
    file = place.file(f"reward_{draw.randrange(10**9)}.py", damaged_bytes(draw, source, hostile))
    ask(load_reward(f"{file}:score"), Responses(["a"], ["b"]))


class Scorer:
    """A server that answers with whatever `answer` is: the bytes of a whole HTTP response."""

    def __init__(self) -> None:
        self.answer = b""
        scorer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                with contextlib.suppress(OSError):
                    self.wfile.write(scorer.answer)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"


def some_answer(draw: random.Random) -> bytes:
    scores: Any = {"scores": [0.5, None]}
    body = json.dumps(damaged_json(draw, scores) if draw.random() < 0.6 else scores).encode()
    if draw.random() < 0.3:
        body = damaged_bytes(draw, body, HOSTILE_JSON)
    length = len(body) + draw.choice([0, 0, 0, 0, 1, -1])
    status = draw.choice([200] * 8 + [204, 302, 404, 429, 500, 99, 999])
    encoding = draw.choice([""] * 9 + ["Content-Encoding: gzip\r\n", "Transfer-Encoding: chunked\r\n"])
    head = f"HTTP/1.1 {status} OK\r\nContent-Length: {length}\r\n{encoding}\r\n".encode()
    return damaged_bytes(draw, head + body, [b"\0" * 1000]) if draw.random() < 0.3 else head + body


@surface(400)
def scorer_answers(draw: random.Random, place: Place) -> None:
    """Answers of a remote scorer."""
    place.scorer.answer = some_answer(draw)
    ask(RemoteReward(place.scorer.url, timeout=0.3, attempts=2, wait=0.001), Responses(["a", "b"], ["c", "d"]))


# paths


def some_path(draw: random.Random, place: Place) -> str:
    known = hostile_paths(place.case)
    parts = [*known.values(), *TEXTS, ".", "..", "~", "a", str(place.case)]
    return draw.choice(["", "/"]).join(draw.choice(parts) for _ in range(draw.choice([1, 1, 2, 3])))


@surface(800)
def paths(draw: random.Random, place: Place) -> None:
    """Texts that are paths or not, wherever one is taken."""
    path = some_path(draw, place)
    uses: list[Callable[[], object]] = [
        lambda: user_path(path, "x"),
        lambda: load_prompts(path + draw.choice(["", ".jsonl", ".csv", ".parquet", ".txt"])),
        lambda: load_base(path + "/"),
        lambda: load_reward(path),
        lambda: find_value_folder(path),
        lambda: run_command(["doctor", path]),
        lambda: run_command(["train", f"--config={path}"]),
        lambda: run_command(["train", f"--resume={path}"]),
    ]
    if path not in ("embedded", "embedded-blank"):
        draw.choice(uses)()


@surface(300)
def stored_answers(draw: random.Random, place: Place) -> None:
    """What `ppo-lm collect` stored before."""
    lines = [json.dumps({**ANSWER, "task": task}) for task in range(3)]
    file = Path(place.file("answers.jsonl", "\n".join(lines).encode()))
    spoil_lines(draw, file)
    AnswerStore(place.case).agreement()


# whole commands


def commands_on(draw: random.Random, place: Place) -> list[str]:
    data = place.file("rows.jsonl", WRITERS[".jsonl"](some_rows(draw) + ROWS[:1] * draw.choice([0, 2, 12])))
    model, kind = place.model, draw.choice(list(CONFIG_OF))
    if draw.random() < 0.3:
        model = place.copy(place.model)
        damage_folder(draw, model, HOSTILE_JSON)
    out = f"--output_dir={some_path(draw, place) if draw.random() < 0.2 else place.case / 'out'}"
    small = [f"--model_name={model}", out, "--batch_size=2", "--lora_r=2", "--device=cpu"]
    demonstrations, length = f"--demonstrations={data}", "--max_steps=1"
    return {
        "train": ["train", *SMALL_RUN, *small, f"--prompts={data}", "--steps=1"],
        "sft": ["sft", *small, demonstrations, length, "--rouge_samples=0", "--max_tokens=64"],
        "reward": ["reward", *small, f"--preferences={data}", length, "--max_tokens=64"],
        "value": ["value", *small, demonstrations, length, "--reward=length_target(words=4)", "--max_tokens=64"],
    }[kind] + extremes(draw, CONFIG_OF[kind])


def extremes(draw: random.Random, config: type) -> list[str]:
    """Numbers at the edge of what a setting takes, now and then."""
    if draw.random() < 0.5:
        return []
    number = draw.choice(["0", "1", "3", "1e-300", "1e300", "1000000", str(2**31), str(2**63), str(2**70)])
    names = [name for name, field in fields_of(config).items() if {int, float} & set(field.kinds)]
    return [f"--{draw.choice(sorted(set(names) - COSTLY))}={number}"]


@surface(150)
def whole_commands(draw: random.Random, place: Place) -> None:
    """Commands on data, models and folders that are damaged, to their end."""
    run_command(commands_on(draw, place))

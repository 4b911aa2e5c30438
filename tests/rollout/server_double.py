"""What stand-ins for servers have in common: a port, adapters, and tokens sampled with their weights."""

import contextlib
import copy
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import torch

from ppo_lm.models import BaseModel, PolicyModel
from ppo_lm.rollout import PlainEngine, SamplingSettings
from ppo_lm.token_attribution import build_sa_pairs, extract_actions

NUMBER = (int, float)
PLAIN = {  # field that both kinds of servers have → the types of its value
    "temperature": NUMBER,
    "top_k": int,
    "top_p": NUMBER,
    "min_p": NUMBER,
    "presence_penalty": NUMBER,
    "frequency_penalty": NUMBER,
    "repetition_penalty": NUMBER,
    "ignore_eos": bool,
    "stop_token_ids": list,
}
NEUTRAL = {  # what the doubles can do
    "top_k": -1,
    "top_p": 1,
    "min_p": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
}
LOAD, UNLOAD = {"lora_name": str, "lora_path": str}, {"lora_name": str}


def seeded(seed: int, tokens: int) -> torch.Tensor:
    """The random numbers that the double makes of a request's seed, (1, tokens)."""
    return torch.rand(1, tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Error(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError"):
        super().__init__(message)
        self.status, self.kind = status, kind


NO_SUCH_PATH = Error(404, "", "no such path")


class Started:
    """A server that runs in a `with` block: `start` starts it, `kill` ends it."""

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()


class Double(Started):
    """A server on a port of its own, which it keeps when it is started again, without its adapters, as a new process
    would. `instead(path, body, answer)`: what to answer, if not `answer`; it may raise `Error`, or sleep."""

    about: ClassVar[dict[str, dict]] = {}  # path → what a GET of it is answered with

    def __init__(
        self,
        base: BaseModel,
        *,
        longest: int = 128,
        largest_rank: int = 64,
        loads: bool = True,
        raw: bool = False,
        scale: float = 1.0,
        instead=None,
    ):
        """`longest`: tokens of a prompt and its response. `largest_rank`: of an adapter. `loads`: whether it takes
        adapters while it runs. `raw`: whether it reports log-probabilities at temperature 1. `scale`: of its output
        embeddings, for another base than the run's."""
        self.scale = scale
        self.base, self.longest, self.largest_rank, self.loads, self.raw = base, longest, largest_rank, loads, raw
        self.instead = instead or (lambda path, body, answer: answer)
        self.adapters: dict[str, PolicyModel] = {}
        self.seen: list[tuple[str, dict]] = []
        self.most_adapters, self._port, self._lock = 0, 0, threading.Lock()
        self._server = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply(double.get, self.path)

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.reply(double.post, self.path, body)

            def reply(self, work, *arguments):
                try:
                    status, answer = 200, work(*arguments)
                except Error as error:
                    status, answer = error.status, double.describe_error(error)
                data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                with contextlib.suppress(OSError):  # who asked has gone
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_): ...

        class Server(ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 128

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def kill(self) -> None:
        """Connections are refused from now on, and the adapters are forgotten."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        self.adapters.clear()

    def get(self, path: str):
        if path not in self.about:
            raise NO_SUCH_PATH
        return self.instead(path, {}, self.about[path])

    def post(self, path: str, body: dict):
        self.seen.append((path, body))
        if self._server is None:
            raise Error(503, "killed")
        work = self.work()
        if path not in work:
            raise NO_SUCH_PATH
        with self._lock:
            answer = work[path](body)
        return self.instead(path, body, answer)

    def add(self, name: str, folder: Path) -> None:
        """Read an adapter."""
        base = BaseModel(copy.deepcopy(self.base.network), self.base.tokenizer, self.base.eos_token_ids, "double")
        base.load_adapter("policy", folder)
        with torch.no_grad():
            base.network.get_output_embeddings().weight.mul_(self.scale)
        self.adapters[name] = PolicyModel(base)
        self.most_adapters = max(self.most_adapters, len(self.adapters))

    def sample(self, name: str, prompt: list[int], settings: SamplingSettings, ends: list[int], seed: int):
        """The tokens of a response of the adapter, and their log-probabilities."""
        policy, ids = self.adapters[name], torch.tensor([prompt])
        policy.base.eos_token_ids = ends
        whole = torch.ones_like(ids, dtype=torch.bool)
        sampled = PlainEngine(policy).sample(ids, whole, settings, seeded(seed, settings.max_new_tokens))
        actions, mask, ended = extract_actions(sampled.ids, ends, 0)
        logprobs = sampled.logprobs
        if self.raw or settings.temperature == 0:
            with torch.no_grad():
                logprobs = policy.action_logprobs(build_sa_pairs(ids, whole, actions, mask, ended, logprobs))
        return actions[mask].tolist(), logprobs[mask].tolist()


def rank_of(folder: Path) -> int:
    """The rank of the adapter in a PEFT folder."""
    return json.loads((folder / "adapter_config.json").read_text())["r"]


def are_tokens(prompt: list) -> bool:
    """Whether these are tokens of the vocabulary, at least one."""
    return bool(prompt) and all(type(token) is int and 0 <= token < 1536 for token in prompt)


def check(body: dict, schema: dict) -> None:
    """Every field is there and of its type, and there is no other."""
    if set(body) != set(schema):
        raise Error(400, f"fields {sorted(set(body) ^ set(schema))}")
    for name, kind in schema.items():
        value = body[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise Error(400, f"{name} is {value!r}")

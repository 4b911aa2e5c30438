"""A stand-in for vLLM's server: the same paths, the fields of a request that we know and no others, LoRA adapters from
PEFT folders, and tokens sampled with their weights.

It is stricter than vLLM 0.32, which ignores fields that it does not know.
"""

import contextlib
import copy
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from ppo_lm.models import BaseModel, PolicyModel
from ppo_lm.rollout import PlainEngine, SamplingSettings
from ppo_lm.token_attribution import build_sa_pairs, extract_actions

NUMBER = (int, float)
COMPLETION = {  # field → the types of its value
    "model": str,
    "prompt": list,
    "max_tokens": int,
    "min_tokens": int,
    "temperature": NUMBER,
    "top_k": int,
    "top_p": NUMBER,
    "min_p": NUMBER,
    "presence_penalty": NUMBER,
    "frequency_penalty": NUMBER,
    "repetition_penalty": NUMBER,
    "seed": int,
    "ignore_eos": bool,
    "stop_token_ids": list,
    "logprobs": int,
    "return_token_ids": bool,
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


class Started:
    """A server that runs in a `with` block: `start` starts it, `kill` ends it."""

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()


class VLLMDouble(Started):
    """A server on a port of its own, which it keeps when it is started again, without its adapters, as a new process
    would. `instead(path, body, answer)`: what to answer, if not `answer`; it may raise `Error`, or sleep."""

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
        """`longest`: --max-model-len. `largest_rank`: --max-lora-rank. `loads`: whether
        VLLM_ALLOW_RUNTIME_LORA_UPDATING is set. `raw`: --logprobs-mode raw_logprobs. `scale`: of its
        output embeddings, for another base than the run's."""
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
                    status, answer = error.status, {"error": {"message": str(error), "type": error.kind}}
                    answer = {"detail": "Not Found"} if error.kind == "no such path" else answer
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
        if path != "/version":
            raise Error(404, "", "no such path")
        return self.instead(path, {}, {"version": "0.32.0"})

    def post(self, path: str, body: dict):
        self.seen.append((path, body))
        if self._server is None:
            raise Error(503, "killed")
        work = {"/v1/completions": self.complete}
        if self.loads:
            work |= {"/v1/load_lora_adapter": self.load, "/v1/unload_lora_adapter": self.unload}
        if path not in work:
            raise Error(404, "", "no such path")
        with self._lock:
            answer = work[path](body)
        return self.instead(path, body, answer)

    def load(self, body: dict) -> str:
        check(body, LOAD)
        name, folder = body["lora_name"], Path(body["lora_path"])
        if name in self.adapters:
            raise Error(400, f"The lora adapter '{name}' has already been loaded.", "InvalidUserInput")
        if not (folder / "adapter_config.json").is_file():
            raise Error(404, f"Loading lora {name} failed: No adapter found for {folder}", "NotFoundError")
        rank = json.loads((folder / "adapter_config.json").read_text())["r"]
        if rank > self.largest_rank:
            raise Error(400, f"LoRA rank {rank} is greater than max_lora_rank {self.largest_rank}.")
        base = BaseModel(copy.deepcopy(self.base.network), self.base.tokenizer, self.base.eos_token_ids, "double")
        base.load_adapter("policy", folder)
        with torch.no_grad():
            base.network.get_output_embeddings().weight.mul_(self.scale)
        self.adapters[name] = PolicyModel(base)
        self.most_adapters = max(self.most_adapters, len(self.adapters))
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, body: dict) -> str:
        check(body, UNLOAD)
        if self.adapters.pop(body["lora_name"], None) is None:
            raise Error(404, f"The lora adapter '{body['lora_name']}' cannot be found.", "NotFoundError")
        return "Success"

    def complete(self, body: dict) -> dict:
        check(body, COMPLETION)
        if body["model"] not in self.adapters:
            raise Error(404, f"The model `{body['model']}` does not exist.", "NotFoundError")
        prompt, most = body["prompt"], body["max_tokens"]
        if not prompt or not all(type(token) is int and 0 <= token < 1536 for token in prompt):
            raise Error(400, "prompt must be token ids of the vocabulary")
        if len(prompt) + most > self.longest:
            raise Error(400, f"This model's maximum context length is {self.longest} tokens.")
        neutral = {"top_k": -1, "top_p": 1, "min_p": 0, "repetition_penalty": 1, "logprobs": 0, "ignore_eos": True}
        wrong = [name for name, value in neutral.items() if body[name] != value]
        if wrong or not body["return_token_ids"] or body["presence_penalty"] or body["frequency_penalty"]:
            raise Error(400, f"the double cannot do this: {wrong}")
        ids, logprobs = self.sample(self.adapters[body["model"]], body)
        return {
            "id": "cmpl-1",
            "object": "text_completion",
            "model": body["model"],
            "choices": [{"index": 0, "text": "", "token_ids": ids, "logprobs": {"token_logprobs": logprobs}}],
        }

    def sample(self, policy: PolicyModel, body: dict) -> tuple[list[int], list[float]]:
        settings = SamplingSettings(body["max_tokens"], body["temperature"], min_new_tokens=body["min_tokens"])
        policy.base.eos_token_ids = body["stop_token_ids"]
        prompt = torch.tensor([body["prompt"]])
        whole = torch.ones_like(prompt, dtype=torch.bool)
        sampled = PlainEngine(policy).sample(prompt, whole, settings, seeded(body["seed"], body["max_tokens"]))
        ids, mask, ended = extract_actions(sampled.ids, policy.base.eos_token_ids, 0)
        logprobs = sampled.logprobs
        if self.raw or settings.temperature == 0:
            with torch.no_grad():
                logprobs = policy.action_logprobs(build_sa_pairs(prompt, whole, ids, mask, ended, logprobs))
        return ids[mask].tolist(), logprobs[mask].tolist()


def check(body: dict, schema: dict) -> None:
    """Every field is there and of its type, and there is no other."""
    if set(body) != set(schema):
        raise Error(400, f"fields {sorted(set(body) ^ set(schema))}")
    for name, kind in schema.items():
        value = body[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise Error(400, f"{name} is {value!r}")
    if body.get("max_tokens", 1) < 1 or not -(2**63) <= body.get("seed", 0) < 2**63:
        raise Error(400, "max_tokens or seed is out of range")


def never(path: str, body: dict, answer):
    """An answer that takes longer than anybody waits."""
    if path == "/v1/completions":
        time.sleep(5)
    return answer

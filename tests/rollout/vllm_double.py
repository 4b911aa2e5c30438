"""A stand-in for vLLM's server: the same paths, the fields of a request that we know and no others, LoRA adapters from
PEFT folders, and tokens sampled with their weights.

It is stricter than vLLM 0.32, which ignores fields that it does not know.
"""

import time
from pathlib import Path
from typing import ClassVar

from ppo_lm.rollout import SamplingSettings
from ppo_lm.rollout.remote import VLLM
from tests.rollout.server_double import (
    LOAD,
    NEUTRAL,
    NO_SUCH_PATH,
    PLAIN,
    UNLOAD,
    Double,
    Error,
    are_tokens,
    check,
    rank_of,
)

COMPLETION = {  # field → the types of its value
    "model": str,
    "prompt": list,
    "max_tokens": int,
    "min_tokens": int,
    **PLAIN,
    "seed": int,
    "logprobs": int,
    "return_token_ids": bool,
}


class VLLMDouble(Double):
    """See `Double`. `longest`: --max-model-len. `largest_rank`: --max-lora-rank. `loads`: whether
    VLLM_ALLOW_RUNTIME_LORA_UPDATING is set. `raw`: --logprobs-mode raw_logprobs."""

    dialect = VLLM
    about: ClassVar = {"/version": {"version": "0.32.0"}}

    def describe_error(self, error: Error) -> dict:
        if error is NO_SUCH_PATH:
            return {"detail": "Not Found"}
        return {"error": {"message": str(error), "type": error.kind}}

    def work(self) -> dict:
        loading = {"/v1/load_lora_adapter": self.load, "/v1/unload_lora_adapter": self.unload}
        return {"/v1/completions": self.complete} | (loading if self.loads else {})

    def load(self, body: dict) -> str:
        check(body, LOAD)
        name, folder = body["lora_name"], Path(body["lora_path"])
        if name in self.adapters:
            raise Error(400, f"The lora adapter '{name}' has already been loaded.", "InvalidUserInput")
        if not (folder / "adapter_config.json").is_file():
            raise Error(404, f"Loading lora {name} failed: No adapter found for {folder}", "NotFoundError")
        if rank_of(folder) > self.largest_rank:
            raise Error(400, f"LoRA rank {rank_of(folder)} is greater than max_lora_rank {self.largest_rank}.")
        self.add(name, folder)
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, body: dict) -> str:
        check(body, UNLOAD)
        if self.adapters.pop(body["lora_name"], None) is None:
            raise Error(404, f"The lora adapter '{body['lora_name']}' cannot be found.", "NotFoundError")
        return "Success"

    def complete(self, body: dict) -> dict:
        check(body, COMPLETION)
        if body["max_tokens"] < 1 or not -(2**63) <= body["seed"] < 2**63:
            raise Error(400, "max_tokens or seed is out of range")
        if body["model"] not in self.adapters:
            raise Error(404, f"The model `{body['model']}` does not exist.", "NotFoundError")
        prompt, most = body["prompt"], body["max_tokens"]
        if not are_tokens(prompt):
            raise Error(400, "prompt must be token ids of the vocabulary")
        if len(prompt) + most > self.longest:
            raise Error(400, f"This model's maximum context length is {self.longest} tokens.")
        neutral = {**NEUTRAL, "logprobs": 0, "ignore_eos": True}
        wrong = [name for name, value in neutral.items() if body[name] != value]
        if wrong or not body["return_token_ids"]:
            raise Error(400, f"the double cannot do this: {wrong}")
        settings = SamplingSettings(most, body["temperature"], min_new_tokens=body["min_tokens"])
        ids, logprobs = self.sample(body["model"], prompt, settings, body["stop_token_ids"], body["seed"])
        return {
            "id": "cmpl-1",
            "object": "text_completion",
            "model": body["model"],
            "choices": [{"index": 0, "text": "", "token_ids": ids, "logprobs": {"token_logprobs": logprobs}}],
        }


def never(path: str, body: dict, answer):
    """An answer that takes longer than anybody waits."""
    if path == "/v1/completions":
        time.sleep(5)
    return answer

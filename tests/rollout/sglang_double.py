"""A stand-in for SGLang's server: the same paths, the fields of a request that we know and no others, LoRA adapters
from PEFT folders, and tokens sampled with their weights. `test_real_sglang.py` compares it with the program.

It is stricter than SGLang 0.5.23, which ignores fields that it does not know, and it honours seeds, as a server with
--enable-deterministic-inference does.
"""

from pathlib import Path
from typing import ClassVar

from ppo_lm.rollout import SamplingSettings
from ppo_lm.rollout.remote import SGLANG
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

GENERATE = {"input_ids": list, "lora_path": str, "sampling_params": dict, "return_logprob": bool}
SAMPLING = {  # field → the types of its value
    "max_new_tokens": int,
    "min_new_tokens": int,
    **PLAIN,
    "sampling_seed": int,
}


class SGLangDouble(Double):
    """See `Double`. `longest`: --context-length. `largest_rank`: --max-lora-rank. `loads`: --enable-lora. `raw`: with
    SGLANG_RETURN_ORIGINAL_LOGPROB."""

    dialect = SGLANG
    about: ClassVar = {"/server_info": {"version": "0.5.23", "enable_deterministic_inference": True}}

    def describe_error(self, error: Error) -> dict:
        if error is NO_SUCH_PATH:
            return {"detail": "Not Found"}
        if error.kind == "adapter":
            return {"rid": None, "success": False, "error_message": str(error), "loaded_adapters": self.loaded()}
        return {"error": {"message": str(error)}}

    def work(self) -> dict:
        return {
            "/generate": self.generate,
            "/load_lora_adapter": self.load,
            "/unload_lora_adapter": self.unload,
        }

    def loaded(self) -> dict[str, str]:
        return dict.fromkeys(self.adapters, "")

    def load(self, body: dict) -> dict:
        check(body, LOAD)
        name, folder = body["lora_name"], Path(body["lora_path"])
        if not self.loads:
            raise Error(400, "LoRA is not enabled. Please set `--enable-lora` to enable LoRA.", "adapter")
        if name in self.adapters:
            raise Error(400, f"Failed to load LoRA adapter {name} because it is already loaded", "adapter")
        if not (folder / "adapter_config.json").is_file():
            raise Error(
                400, f"Repo id must be in the form 'repo_name' or 'namespace/repo_name': '{folder}'.", "adapter"
            )
        if rank_of(folder) > self.largest_rank:
            words = f"LoRA adapter {name} with rank {rank_of(folder)} is incompatible with the current LoRA memory pool"
            raise Error(400, words, "adapter")
        self.add(name, folder)
        return {"rid": None, "success": True, "error_message": "", "loaded_adapters": self.loaded()}

    def unload(self, body: dict) -> dict:
        check(body, UNLOAD)
        if self.adapters.pop(body["lora_name"], None) is None:
            raise Error(400, f"LoRA with name {body['lora_name']} does not exist.", "adapter")
        return {"rid": None, "success": True, "error_message": "", "loaded_adapters": self.loaded()}

    def generate(self, body: dict) -> dict:
        check(body, GENERATE)
        wanted = body["sampling_params"]
        check(wanted, SAMPLING)
        if body["lora_path"] not in self.adapters:
            raise Error(400, f"Got LoRA adapter that has never been loaded: {body['lora_path']}")
        prompt, most = body["input_ids"], wanted["max_new_tokens"]
        if not are_tokens(prompt):
            raise Error(400, "input_ids must be token ids of the vocabulary")
        if len(prompt) + most > self.longest:
            raise Error(400, f"Requested token count exceeds the maximum context length of {self.longest} tokens.")
        neutral = {**NEUTRAL, "ignore_eos": False}  # True would also switch off `stop_token_ids`
        wrong = [name for name, value in neutral.items() if wanted[name] != value]
        if wrong or not body["return_logprob"] or most < 1:
            raise Error(400, f"the double cannot do this: {wrong}")
        settings = SamplingSettings(most, wanted["temperature"], min_new_tokens=wanted["min_new_tokens"])
        ids, logprobs = self.sample(
            body["lora_path"], prompt, settings, wanted["stop_token_ids"], wanted["sampling_seed"]
        )
        return {
            "text": "",
            "output_ids": ids,
            "meta_info": {"output_token_logprobs": [[number, token, None] for number, token in zip(logprobs, ids)]},
        }

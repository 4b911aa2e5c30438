"""Train every family of causal language models that transformers can build, very small and with random weights, and
write the table of what works.

    uv run benchmarks/families.py [--only llama,mixtral] [--write docs/families.md]

Each family trains for three PPO steps with LoRA and three with all weights. Then the saved model is loaded by plain
transformers, and the adapter by plain peft; both must continue four prompts greedily as the trained policy does. The
rest of the families must be refused, in one sentence, before training. Exits with code 1 if a family does neither.
Families whose smallest network is too large, or which do not build from a configuration alone, are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
import transformers
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ppo_lm import PPOConfig, PPOTrainer
from ppo_lm.base_setup import EMBEDDED_MODEL
from ppo_lm.errors import UserError

LARGEST = 6_000_000  # weights
SECONDS = 300  # for one run
PROMPTS = ["I like tea", "The weather is nice today and", "My sister", "A dog ate my homework so"]
LORA, ALL_WEIGHTS = 4, 0  # values of lora_r
SMALL = {  # the names of the same few sizes in different families
    **dict.fromkeys(["hidden_size", "n_embd", "d_model", "word_embed_proj_dim"], 32),
    **dict.fromkeys(["intermediate_size", "ffn_dim", "ffn_hidden_size", "d_ff", "decoder_ffn_dim"], 64),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"], 2),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "decoder_attention_heads"], 4),
    **dict.fromkeys(["encoder_layers", "num_key_value_heads", "num_experts_per_tok"], 2),
    **dict.fromkeys(["max_position_embeddings", "n_positions"], 512),
    **dict.fromkeys(["num_experts", "n_routed_experts", "num_local_experts", "encoder_attention_heads"], 4),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size", "q_lora_rank", "kv_lora_rank"], 16),
    **dict.fromkeys(["head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "state_size", "d_kv"], 8),
    **dict.fromkeys(["n_shared_experts", "first_k_dense_replace", "n_group", "topk_group"], 1),
    "vocab_size": 1536,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
MAMBA2 = dict(mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_expand=2, mamba_chunk_size=16)
HYBRID = ["linear_attention", "full_attention"]
OWN_SIZES: dict[str, dict] = {  # where the names above do not suffice
    "bamba": MAMBA2,
    "codegen": dict(rotary_dim=4),
    "cwm": dict(bos_token_id=0),
    "falcon_h1": MAMBA2 | dict(mamba_d_ssm=64, mamba_n_groups=1),
    "gpt_neo": dict(attention_types=[[["global", "local"], 1]], hidden_size=32, num_heads=4),
    "gptj": dict(rotary_dim=4),
    "granitemoehybrid": MAMBA2 | dict(layer_types=["mamba", "attention"]),
    "jamba": dict(attn_layer_period=2, attn_layer_offset=1, mamba_d_state=8, mamba_dt_rank=4),
    "mamba2": dict(num_heads=8, head_dim=8, expand=2, n_groups=1, chunk_size=16),
    "modernbert-decoder": dict(bos_token_id=0, cls_token_id=0, sep_token_id=1),
    "nemotron_h": dict(mamba_num_heads=8, mamba_head_dim=8, n_groups=1, ssm_state_size=8, chunk_size=16),
    "opt": dict(word_embed_proj_dim=16),  # as in OPT-350m, the head reads another width than the layers have
    "qwen3_5_moe_text": dict(layer_types=HYBRID),
    "qwen3_5_text": dict(layer_types=HYBRID),
    "qwen3_next": dict(layer_types=HYBRID),
    "qwen4_exp_text": dict(layer_types=HYBRID),
}


@dataclass
class Outcome:
    """What became of one family."""

    family: str
    lora: str = ""
    all_weights: str = ""
    passes: str = ""
    sampling: str = ""
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def trains(self) -> bool:
        return "yes" in (self.lora, self.all_weights)


class TooLarge(Exception):
    """The smallest network is no small one."""


def of_length(prompts, completions, **_):
    return [len(completion) / 50 for completion in completions]


def small_config(family: str):
    """A configuration of a few thousand weights."""
    fields = AutoConfig.for_model(family).to_dict()
    sizes = {name: size for name, size in SMALL.items() if name in fields or name.endswith("token_id")}
    if "qk_rope_head_dim" in fields:  # multi-head latent attention
        sizes.pop("head_dim", None)
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    return AutoConfig.for_model(family, **sizes | OWN_SIZES.get(family, {}))


def make_model(family: str, folder: Path) -> None:
    """Save a small random network of the family with the embedded tokenizer. Raises what transformers raises."""
    config = small_config(family)
    with torch.device("meta"):
        weights = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if weights > LARGEST:
        raise TooLarge(f"{weights:,} weights")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(EMBEDDED_MODEL).save_pretrained(folder)


@torch.no_grad()
def continue_greedily(network, tokenizer, tokens: int = 6) -> list[list[int]]:
    """Token ids, without any cache."""
    found = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        for _ in range(tokens):
            logits = network(input_ids=ids, use_cache=False).logits[0, -1]
            ids = torch.cat([ids, logits.argmax()[None, None]], dim=1)
        found.append(ids[0].tolist())
    return found


def train(model: Path, lora_r: int, folder: Path) -> PPOTrainer:
    """Three steps. Raises `UserError` if the model is refused."""
    config = PPOConfig(
        model_name=str(model),
        lora_r=lora_r,
        steps=3,
        batch_size=4,
        mini_batches=1,
        max_new_tokens=6,
        eval_prompts=0,
        learning_rate=1e-2,
        output_dir=str(folder),
    )
    trainer = PPOTrainer(config, reward=of_length)
    trainer.train(PROMPTS * 3, quiet=True)
    return trainer


def check_saved(trainer: PPOTrainer, model: Path, folder: Path) -> list[str]:
    """What plain transformers and plain peft do not reproduce."""
    policy, tokenizer, failures = trainer.roles.policy, trainer.base.tokenizer, []
    with policy.base.role(policy.role):
        expected = continue_greedily(policy.base.network, tokenizer)
    if continue_greedily(AutoModelForCausalLM.from_pretrained(folder / "merged"), tokenizer) != expected:
        failures.append("plain transformers answers differently")
    if policy.role is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), folder / "adapter")
        if continue_greedily(tuned, tokenizer) != expected:
            failures.append("plain peft answers differently")
    gap = max(json.loads(row).get("sampler_gap", 0) for row in (folder / "metrics.jsonl").read_text().splitlines())
    if gap > 1e-3:
        failures.append(f"the sampler's log-probabilities are off by {gap:.1e}")
    return failures


@contextmanager
def time_limit(seconds: int):
    def stop(*_):
        raise TimeoutError(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_family(family: str, scratch: Path) -> Outcome:
    """Train one family both ways."""
    model, outcome = scratch / "model", Outcome(family)
    make_model(family, model)
    for lora_r, column in ((LORA, "lora"), (ALL_WEIGHTS, "all_weights")):
        folder, text = scratch / column, "yes"
        try:
            with time_limit(SECONDS):
                trainer = train(model, lora_r, folder)
                outcome.failures += check_saved(trainer, model, folder)
            describe(trainer, outcome)
        except UserError as error:
            text = "no"
            outcome.notes.append(str(error).replace(str(model), family))
            if (folder / "config.yaml").exists():
                outcome.failures.append(f"refused after the start: {error}")
        except Exception as error:
            text = "no"
            outcome.failures.append(f"{type(error).__name__}: {error}")
        setattr(outcome, column, text)
    outcome.notes = list(dict.fromkeys(outcome.notes))
    return outcome


def describe(trainer: PPOTrainer, outcome: Outcome) -> None:
    """How the family is run."""
    paths = trainer.base.paths
    outcome.passes = "own" if paths.accelerated else "padded" if paths.why_not_packed else "without padding"
    outcome.sampling = "own" if paths.accelerated else "without cache" if paths.why_not_cached else "cached"
    outcome.notes += [note for note in trainer.base.notes if note.startswith("no adapters")]


def families() -> list[str]:
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def try_all(names: list[str], say: Callable[[str], None]) -> tuple[list[Outcome], list[str]]:
    """(outcomes, families that were left out)."""
    outcomes, left_out = [], []
    for family in names:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                with time_limit(SECONDS):
                    make_model(family, Path(scratch) / "trial")
            except Exception as error:
                left_out.append(family)
                say(f"{family}: left out ({type(error).__name__}: {str(error).splitlines()[0]:.100})")
                continue
            outcomes.append(try_family(family, Path(scratch)))
            found = outcomes[-1]
            say(f"{family}: LoRA {found.lora}, all weights {found.all_weights}, {found.passes}, {found.sampling}")
            for line in [*found.notes, *(f"FAILED: {failure}" for failure in found.failures)]:
                say(f"    {line:.300}")
    return outcomes, left_out


def table(outcomes: list[Outcome], left_out: list[str]) -> str:
    """The page for the docs."""
    trained = [outcome for outcome in outcomes if outcome.trains]
    refused = [outcome for outcome in outcomes if not outcome.trains]
    notes = list(dict.fromkeys(note for outcome in trained for note in outcome.notes))
    lines = [
        "# Families of models",
        "",
        "Made by `uv run benchmarks/families.py --write docs/families.md`, which trains a very small network of each",
        f"family of causal language models in transformers {transformers.__version__} with random weights: three PPO "
        "steps with LoRA and",
        "three with all weights. Plain transformers and plain peft then load what was saved and must answer four",
        "prompts as the trained policy does, token for token.",
        "",
        "* *Passes*: `own` means through the package's own layers; `without padding` and `padded`, through "
        "transformers' layers.",
        "* *Sampling*: `own` means in slots, through the package's own decoder; `cached`, through transformers' layers "
        "and cache;",
        "  `without cache`, by reading all tokens again for every new one, because the cache gives other results.",
        "",
        "| family | LoRA | all weights | passes | sampling | notes |",
        "|---|---|---|---|---|---|",
    ]
    for outcome in trained:
        marks = ", ".join(str(notes.index(note) + 1) for note in outcome.notes)
        cells = [outcome.family, outcome.lora, outcome.all_weights, outcome.passes, outcome.sampling, marks]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, start=1)), ""]
    lines += ["## Refused before training", "", "| family | message |", "|---|---|"]
    lines += [f"| {outcome.family} | {outcome.notes[0].replace('|', '/')} |" for outcome in refused if outcome.notes]
    lines += ["", f"Not tried, because no small network could be built: {', '.join(left_out)}.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="families, separated by commas")
    parser.add_argument("--write", type=Path, help="file for the table")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    names = options.only.split(",") if options.only else families()
    outcomes, left_out = try_all(names, lambda line: print(line, flush=True))
    failed = [outcome.family for outcome in outcomes if outcome.failures]
    trained = sum(outcome.trains for outcome in outcomes)
    print(f"{len(outcomes)} families: {trained} train, {len(outcomes) - trained} are refused, {len(failed)} failed")
    if options.write:
        options.write.write_text(table(outcomes, left_out), encoding="utf-8")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

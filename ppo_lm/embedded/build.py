"""Build the embedded model: tokenizer, supervised fine-tuning, reward model. `ppo-lm build-embedded` runs it.

The network starts from random weights; every stage uses the package's own trainers. Nothing here reads the gold scorer but to
report it.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ppo_lm.base_setup import load_base, make_lora_config
from ppo_lm.data.encoding import encode_completion, encode_prompt
from ppo_lm.embedded.posts import Post, generate_posts
from ppo_lm.embedded.summaries import Summary, write_demonstrations, write_preferences
from ppo_lm.models import BaseModel, PolicyModel, RewardModel
from ppo_lm.reward_modeling import Comparison, normalise, preference_accuracy, train_reward_model
from ppo_lm.sft import Demonstration, completion_loss, train_sft

VOCABULARY = 1536
SEED_TOKENIZER, SEED_SFT, SEED_REWARD, SEED_TEST = 100, 101, 102, 103
SFT_POSTS, SFT_EPOCHS, SFT_BATCH, SFT_LEARNING_RATE = 24_000, 2, 32, 2e-3
REWARD_POSTS, REWARD_EPOCHS, REWARD_BATCH, REWARD_LEARNING_RATE = 20_000, 1, 32, 2e-3
TEST_POSTS = 500
NETWORK = dict(
    hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=6,
    max_position_embeddings=512, tie_word_embeddings=True, pad_token_id=0, bos_token_id=None, eos_token_id=1,
)  # fmt: skip


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with PAD and EOS of its own. A person's "(24F)" is one piece, so that it follows its "I" or name directly."""
    tokenizer = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(r" ?\(\w+\)| ?\w+| ?[^\w\s]+|\s+"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|pad|>", "<|eos|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|eos|>", clean_up_tokenization_spaces=False, model_max_length=512
    )


def build_embedded(folder: Path, seed: int = 0) -> dict[str, float]:
    """Build everything into `folder`; returns what the build measured on posts no stage saw."""
    torch.manual_seed(seed)
    posts = generate_posts(4000, SEED_TOKENIZER)
    texts = [post.prompt + summary.text for post, summary in zip(posts, write_demonstrations(posts, SEED_TOKENIZER))]
    tokenizer = train_tokenizer(texts)
    network = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **NETWORK))
    print(f"network: {sum(p.numel() for p in network.parameters()) / 1e6:.2f}M parameters, vocabulary {len(tokenizer)}")

    base = BaseModel(network, tokenizer, [tokenizer.eos_token_id], "embedded")
    results = run_sft(base, seed)
    _save_network(base, folder)
    base = load_base(str(folder), dtype="float32", device="cpu")
    base.name = "embedded"
    return results | run_reward_modelling(base, folder / "reward", seed)


def run_sft(base: BaseModel, seed: int) -> dict[str, float]:
    base.network.requires_grad_(True)
    policy = PolicyModel(base, role=None)
    posts = generate_posts(SFT_POSTS, SEED_SFT)
    train_sft(
        policy, _demonstrations(base, posts, SEED_SFT), learning_rate=SFT_LEARNING_RATE, epochs=SFT_EPOCHS, batch_size=SFT_BATCH, seed=seed, log=_log("sft")
    )
    base.network.requires_grad_(False)
    test = _demonstrations(base, generate_posts(TEST_POSTS, SEED_TEST), SEED_TEST)
    with torch.no_grad():
        losses = [float(completion_loss(policy, test[i : i + 50])) for i in range(0, TEST_POSTS, 50)]
    return {"sft_test_loss": sum(losses) / len(losses)}


def run_reward_modelling(base: BaseModel, folder: Path, seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    base.add_adapter("reward", make_lora_config(r=16, alpha=32, dropout=0.0))
    model = RewardModel(base)
    posts = generate_posts(REWARD_POSTS, SEED_REWARD)
    train_reward_model(
        model, _comparisons(base, posts, SEED_REWARD), learning_rate=REWARD_LEARNING_RATE, epochs=REWARD_EPOCHS, batch_size=REWARD_BATCH, seed=seed,
        log=_log("reward"),
    )  # fmt: skip
    normalise(model, [d.prompt_ids + d.completion_ids for d in _demonstrations(base, posts[:1000], SEED_REWARD)])
    model.save(folder)
    return {"reward_test_accuracy": preference_accuracy(model, _comparisons(base, generate_posts(TEST_POSTS, SEED_TEST), SEED_TEST))}


def _encode(base: BaseModel, prompt: str, summary: Summary) -> list[int]:
    return encode_prompt(base.tokenizer, prompt) + encode_completion(base.tokenizer, summary.text, base.eos_token_ids[0])


def _demonstrations(base: BaseModel, posts: list[Post], seed: int) -> list[Demonstration]:
    return [
        Demonstration(encode_prompt(base.tokenizer, post.prompt), encode_completion(base.tokenizer, summary.text, base.eos_token_ids[0]))
        for post, summary in zip(posts, write_demonstrations(posts, seed))
    ]


def _comparisons(base: BaseModel, posts: list[Post], seed: int) -> list[Comparison]:
    return [
        Comparison(_encode(base, pair.prompt, pair.chosen), _encode(base, pair.prompt, pair.rejected))
        for pair in write_preferences(posts, seed)
    ]


def _save_network(base: BaseModel, folder: Path) -> None:
    base.network.to(torch.float16).save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)


def _log(stage: str):
    started, recent = time.monotonic(), []

    def log(step: int, total: int, loss: float) -> None:
        recent.append(loss)
        if step % 100 == 0 or step == total:
            elapsed = time.monotonic() - started
            left = elapsed / step * (total - step)
            print(f"{stage} {step}/{total} loss {math.fsum(recent) / len(recent):.4f} {elapsed:.0f}s, {left:.0f}s left", flush=True)
            recent.clear()

    return log

"""The embedded network before any training: a tokenizer for the task, and random weights."""

from __future__ import annotations

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ppo_lm.embedded.posts import generate_posts
from ppo_lm.embedded.summaries import write_demonstrations

VOCABULARY = 1536
TOKENIZER_POSTS, SEED_TOKENIZER = 4000, 100


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with its own PAD and EOS. A person's "(24F)" is one piece, so that it follows its "I"
    or name directly."""
    tokenizer = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(r" ?\(\w+\)| ?\w+| ?[^\w\s]+|\s+"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|pad|>", "<|eos|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|eos|>",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def make_blank_network(seed: int = 0) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The network, initialised with `seed`, and its tokenizer, trained on posts and summaries of the embedded task."""
    posts = generate_posts(TOKENIZER_POSTS, SEED_TOKENIZER)
    texts = [post.prompt + summary.text for post, summary in zip(posts, write_demonstrations(posts, SEED_TOKENIZER))]
    tokenizer = train_tokenizer(texts)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config), tokenizer

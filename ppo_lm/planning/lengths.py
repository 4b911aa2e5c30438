"""How long prompts and responses are on average."""

from __future__ import annotations

from typing import NamedTuple

from transformers import PreTrainedModel

from ppo_lm.base_setup import find_eos_token_ids
from ppo_lm.config import PlanConfig
from ppo_lm.data import load_prompts
from ppo_lm.data.fitting import fit_prompts
from ppo_lm.models import BaseModel
from ppo_lm.planning.network import find_tokenizer

ASSUMED = 256  # tokens of a prompt that nothing is known about


class Lengths(NamedTuple):
    """Mean numbers of tokens, and where that of the prompts comes from."""

    prompt: int
    response: int
    source: str


def find_lengths(config: PlanConfig, network: PreTrainedModel) -> Lengths:
    """As configured; otherwise the prompts are read and tokenised, and responses are as long as they may be. Raises
    `UserError` if the prompts cannot be read."""
    response = config.response_tokens or config.max_new_tokens
    if config.prompt_tokens is not None:
        return Lengths(config.prompt_tokens, response, "as given")
    tokenizer = None if config.prompts is None else find_tokenizer(config.model_name)
    if config.prompts is not None and tokenizer is not None:
        ends = find_eos_token_ids(network, tokenizer)
        base = BaseModel(network, tokenizer, ends, config.model_name, False, config.allow_special_tokens)
        loaded, report = load_prompts(config.prompts, config)
        lengths = fit_prompts(
            loaded, report, base, max_prompt_tokens=config.max_prompt_tokens, max_new_tokens=config.max_new_tokens
        )[1].lengths
        return Lengths(round(sum(lengths) / len(lengths)), response, f"the mean of {len(lengths):,} prompts")
    if config.max_prompt_tokens:
        return Lengths(config.max_prompt_tokens, response, "max_prompt_tokens")
    return Lengths(ASSUMED, response, "assumed; set prompt_tokens to what your data has")

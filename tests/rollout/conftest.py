"""A small policy, prompts of different lengths, and one call of an engine."""

import torch

from ppo_lm.base_setup import make_lora_config
from ppo_lm.models import BaseModel, PolicyModel
from ppo_lm.token_attribution import extract_actions
from tests.conftest import make_base, uniforms

EOS = list(range(1, 150))  # a tenth of the vocabulary: responses end at different times


def make_policy(network=None, full=False, dtype=torch.float32):
    plain = make_base()
    base = BaseModel((network or plain.network).to(dtype), plain.tokenizer, EOS, "random")
    if not full:
        base.add_adapter("policy", make_lora_config(4, 8, 0.0))
        torch.manual_seed(1)
        for name, parameter in base.network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return PolicyModel(base, None if full else "policy")


def make_prompts(rows=13, width=9):
    g = torch.Generator().manual_seed(0)
    mask = torch.arange(width) >= torch.randint(0, width, (rows, 1), generator=g)
    return torch.randint(200, 1500, (rows, width), generator=g) * mask, mask


def sample(engine, settings, prompts):
    sampled = engine.sample(*prompts, settings, uniforms(prompts[0], settings))
    ids, mask, _ = extract_actions(sampled.ids, EOS, 0)
    support = None if sampled.support_ids is None else [row[m].tolist() for row, m in zip(sampled.support_ids, mask)]
    return [row[m].tolist() for row, m in zip(ids, mask)], torch.where(mask, sampled.logprobs, 0.0), support

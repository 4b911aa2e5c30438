import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from ppo_lm.base_setup import load_base, make_lora_config
from ppo_lm.config import PPOConfig
from ppo_lm.models import BaseModel, PolicyModel, SFTModel
from ppo_lm.ppo_trainer import PPOTrainer, SequenceGenerator
from ppo_lm.rollout import SamplingSettings
from tests.conftest import make_base, make_pairs

pytestmark = pytest.mark.fast

PROMPTS = ["SUBREDDIT: r/advice TITLE: My boss", "TL;DR:", "So last week Jake got arrested after a fight. TL;DR:"]


def greedy(network, tokenizer, prompt):
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = network.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, eos_token_id=1
        )
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("lora_r", [4, 0])
def test_saved_models_load_with_plain_libraries_and_answer_like_the_trainer(tmp_path, lora_r):
    start = tmp_path / "base"
    base = make_base()
    base.network.save_pretrained(start)
    base.tokenizer.save_pretrained(start)
    config = PPOConfig(
        model_name=str(start),
        lora_r=lora_r,
        learning_rate=5e-2 if lora_r else 1e-2,
        lr_schedule="constant",
        ppo_epochs=2,
        kl_coef=0.0,
    )
    trainer = PPOTrainer(config, reward=lambda prompts, completions: [float(len(c)) for c in completions])
    trainer.ppo_step(PROMPTS)
    trainer.save(tmp_path / "out")

    roles = trainer.roles
    generate = SequenceGenerator(roles.policy, roles.sft, SamplingSettings(12, temperature=0)).generate_sequences
    ours = generate(PROMPTS)[1]
    untrained = [greedy(make_base().network, base.tokenizer, prompt) for prompt in PROMPTS]
    assert ours != untrained
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "merged")
    assert [greedy(merged, tokenizer, prompt) for prompt in PROMPTS] == ours
    assert (tmp_path / "out" / "adapter").exists() == (lora_r > 0)
    if lora_r:
        named = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
        assert Path(named["base_model_name_or_path"]) == start
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(start), tmp_path / "out" / "adapter")
        assert [greedy(adapted, tokenizer, prompt) for prompt in PROMPTS] == ours
        assert generate(PROMPTS)[1] == ours  # saving left the trainer as it was
    again = load_base(str(tmp_path / "out" / "merged"), "float32", "cpu")  # and ppo_lm starts from what it saved
    assert not any("lora" in name for name in again.network.state_dict())


def test_merging_takes_the_policy_alone_from_layers_that_other_roles_adapt_too(tmp_path):
    base = make_base()
    base.add_adapter("policy", make_lora_config(4, 8, 0.0, "q_proj,v_proj"))
    base.add_adapter("value", make_lora_config(4, 8, 0.0))
    policy = PolicyModel(base)
    with torch.no_grad():
        for role in ("policy", "value"):
            for parameter in base.role_parameters(role):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    pairs = make_pairs(dtype=torch.float32)
    plain = BaseModel(policy.base.merged_network(policy.role).network, base.tokenizer, [1], "merged")
    expected = policy.action_logprobs(pairs).detach()
    torch.testing.assert_close(PolicyModel(plain, None).action_logprobs(pairs), expected, rtol=0, atol=1e-4)
    assert (SFTModel(base).action_logprobs(pairs) - expected).abs().max() > 1e-2


def test_a_bfloat16_run_trains_saves_and_loads(tmp_path):
    start = tmp_path / "base"
    base = make_base()
    base.network.save_pretrained(start)
    base.tokenizer.save_pretrained(start)
    trainer = PPOTrainer(PPOConfig(model_name=str(start), dtype="bfloat16", learning_rate=1e-2, ppo_epochs=1))
    results = trainer.ppo_step(PROMPTS)
    assert results["ratio"] == pytest.approx(1, abs=0.05)  # bf16 rounds differently in batches of other shapes
    assert {p.dtype for p in trainer.roles.policy.parameters()} == {torch.float32}
    trainer.save(tmp_path / "out")
    again = load_base(str(tmp_path / "out" / "merged"), "auto", "cpu")
    assert all(torch.isfinite(p).all() for p in again.network.parameters())

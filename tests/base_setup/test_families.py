"""Every family of causal language models trains and loads elsewhere, or is refused before training.

`benchmarks/families.py` has the details, and makes docs/families.md.
"""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from ppo_lm.base_setup import add_adapter, load_base, make_lora_config

IDS = torch.tensor([[5, 9, 12, 7]])
FILE = Path(__file__).parents[2] / "benchmarks" / "families.py"
SPEC = importlib.util.spec_from_file_location("families", FILE)
families = sys.modules["families"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(families)

TRAINED = {  # family → what its adapter leaves out, if anything
    "gpt2": "",
    "opt": "",  # its head reads another width than its layers have
    "mixtral": "its experts are stacked",
    "qwen3_moe": "its experts are stacked",
    "olmoe": "its experts are stacked",
    "deepseek_v3": "down_proj, gate_proj, up_proj: its experts are stacked",
    "mamba": "out_proj: its state-space layers",
}
REFUSED = {
    "bert-generation": "is not a causal language model",
    "gemma2": "computes its logits with more than its output layer",
    "rwkv": "gives other results for padded rows",
}


@pytest.mark.parametrize(("family", "left_out"), TRAINED.items())
def test_a_family_trains_and_its_saved_models_answer_alike_elsewhere(family, left_out, tmp_path):
    outcome = families.try_family(family, tmp_path)
    assert outcome.failures == []
    assert (outcome.lora, outcome.all_weights) == ("yes", "yes")
    assert left_out in "".join(outcome.notes) and bool(left_out) == bool(outcome.notes)


def test_an_adapter_without_dropout_on_a_mixture_of_experts_can_be_merged(tmp_path):
    """Without dropout, peft adapts the stacked experts too, which cannot be merged."""
    families.make_model("mixtral", tmp_path)
    base = load_base(str(tmp_path), "float32", "cpu")
    add_adapter(base, "policy", make_lora_config(4, 8, dropout=0.0))
    for weight in base.role_parameters("policy"):
        torch.nn.init.normal_(weight, std=0.1)
    with torch.no_grad(), base.role("policy"):
        expected = base.network(IDS).logits
        plain = base.merged_network(None).network(IDS).logits
    merged = base.merged_network("policy").network(IDS).logits
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-3)
    assert (plain - expected).abs().max() > 0.1


@pytest.mark.parametrize(("family", "reason"), REFUSED.items())
def test_a_family_is_refused_before_training(family, reason, tmp_path):
    outcome = families.try_family(family, tmp_path)
    assert outcome.failures == []
    assert (outcome.lora, outcome.all_weights) == ("no", "no")
    assert len(outcome.notes) == 1 and reason in outcome.notes[0] and "\n" not in outcome.notes[0]


def test_sampling_reads_all_tokens_again_where_the_cache_gives_other_results(tmp_path):
    outcome = families.try_family("minimax", tmp_path)
    assert outcome.sampling == "without cache" and outcome.failures == []


@pytest.mark.slow
def test_all_families():
    outcomes, _ = families.try_all(families.families(), print)
    assert [outcome.family for outcome in outcomes if outcome.failures] == []
    assert sum(outcome.trains for outcome in outcomes) >= 45

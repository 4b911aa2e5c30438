"""What of an adapter is left once it is merged."""

import pytest
import torch

from ppo_lm.base_setup import load_base, make_lora_config
from ppo_lm.models import BaseModel, PolicyModel
from ppo_lm.models.merging import rounding_note
from ppo_lm.run import save_models
from tests.conftest import NOTES_OF_OWN_PASSES, make_base

pytestmark = pytest.mark.fast


def adapted_base(dtype, size):
    plain = make_base()
    base = BaseModel(plain.network.bfloat16().to(dtype), plain.tokenizer, [1], "random")
    torch.manual_seed(0)
    base.add_adapter("policy", make_lora_config(4, 8, 0.0))
    for name, parameter in base.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=size)
    return base


def shares_by_hand(base):
    """⟨ΔW kept, ΔW⟩ and ⟨ΔW, ΔW⟩ in fp64, from the merged network and the adapter's own weights."""
    state, kept, whole = base.network.state_dict(), 0.0, 0.0
    merged = base.merged_network("policy").network.state_dict()
    for name, weight in merged.items():
        place = name.removesuffix(".weight")
        if f"{place}.lora_A.policy.weight" in state:
            a, b = (state[f"{place}.lora_{side}.policy.weight"].double() for side in "AB")
            delta = 8 / 4 * b @ a
            kept += ((weight.double() - state[f"{place}.base_layer.weight"].double()) * delta).sum()
            whole += (delta * delta).sum()
    return float(kept / whole)


@pytest.mark.parametrize(
    ("dtype", "size", "low", "high"),
    [
        (torch.float32, 1e-5, 0.999, 1.001),
        (torch.bfloat16, 1e-5, 0.0, 0.05),
        (torch.bfloat16, 1e-4, 0.01, 0.3),
        (torch.bfloat16, 1e-1, 0.99, 1.01),
    ],
)
def test_the_share_of_the_adapter_that_rounding_leaves(dtype, size, low, high):
    base = adapted_base(dtype, size)
    kept = base.merged_weights("policy").kept
    assert kept == pytest.approx(shares_by_hand(base), abs=1e-4)
    assert low <= kept <= high
    assert base.merged_network("policy").kept == kept


def test_without_an_adapter_nothing_is_lost():
    assert adapted_base(torch.bfloat16, 1e-5).merged_weights(None).kept == 1.0


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-1), (torch.bfloat16, 1e-4)])
def test_a_large_loss_to_rounding_is_reported_in_one_line(dtype, size, tmp_path):
    base = adapted_base(dtype, size)
    kept = base.merged_weights("policy").kept
    notes = save_models(PolicyModel(base), tmp_path)
    assert save_models(PolicyModel(base), tmp_path / "adapter only", merged=False) == []
    if kept >= 0.99:
        assert notes == [] and rounding_note(kept, dtype) is None
    else:
        [note] = notes
        assert note == (
            f"{tmp_path / 'merged'}: only {kept:.0%} of the adapter survives rounding to bfloat16; "
            f"{tmp_path / 'adapter'} has all of it"
        )


def test_a_model_loaded_from_an_adapter_says_what_merging_it_lost(tmp_path):
    start = tmp_path / "base"
    plain = make_base()
    plain.network.save_pretrained(start)
    plain.tokenizer.save_pretrained(start)
    base = load_base(str(start), "bfloat16", "cpu")
    base.add_adapter("policy", make_lora_config(4, 8, 0.0))
    for name, parameter in base.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1e-4)
    base.save_adapter("policy", tmp_path / "adapter")
    coarse, fine = (load_base(str(tmp_path / "adapter"), dtype, "cpu").notes for dtype in ("bfloat16", "float32"))
    [note] = [note for note in coarse if note not in NOTES_OF_OWN_PASSES]
    assert note.endswith("of the adapter survives rounding to bfloat16")
    assert fine == NOTES_OF_OWN_PASSES

"""Log-probabilities and entropies through a frozen head on the device, against fp64 on the CPU."""

import pytest
import torch
from torch import nn

from ppo_lm.ops import action_logprobs
from ppo_lm.ops.exponentials import exponentials, sums_of_blocks
from tests.kernels.test_vocabulary import close, close_sums
from tests.kernels.vocabulary_cases import CASES, make_logits


@pytest.mark.parametrize("name", CASES)
def test_exponentials_are_those_of_the_formulas(device, name):
    case = CASES[name]
    close([part.cpu() for part in exponentials(make_logits(*case).to(device), case[-1], True, True)], case)
    close_sums([part.cpu() for part in sums_of_blocks(make_logits(*case).to(device), case[-1])], case)


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 5e-5), (torch.bfloat16, 3e-2)], ids=str)
@pytest.mark.parametrize("kept", [None, 20])
def test_logprobs_entropies_and_gradients_are_those_of_fp64(device, dtype, off, kept):
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 50, 64, generator=g).to(dtype)
    weight = (torch.randn(9000, 64, generator=g) * 0.3).to(dtype)
    ids = torch.randint(0, 9000, (3, 50), generator=g)
    mask = torch.rand(3, 50, generator=g) < 0.8
    support = None
    if kept:
        support = (hidden.double() @ weight.double().T).topk(kept, dim=-1).indices
        ids = support[..., 3]
    found = []
    for place, kind in ((device, dtype), (torch.device("cpu"), torch.float64)):
        layer = nn.Linear(64, 9000, bias=False).requires_grad_(False).to(place, kind)
        layer.weight.data.copy_(weight)
        states = hidden.to(place, kind, copy=True).requires_grad_()
        numbers = action_logprobs(
            states,
            layer,
            ids.to(place),
            mask.to(place),
            temperature=0.8,
            entropy=True,
            support_ids=None if support is None else support.to(place),
        )
        (numbers[0].sum() + 0.3 * numbers[1].sum()).backward()
        found.append((numbers.detach().cpu().double(), states.grad.cpu().double()))
    for ours, exact in zip(*found):
        assert float((ours - exact).norm() / exact.norm()) < off

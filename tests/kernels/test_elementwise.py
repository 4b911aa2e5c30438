"""The Triton kernels under Triton's interpreter, which needs no GPU, and the choice between them and torch."""

import dataclasses

import pytest
import torch

from ppo_lm.fast.paths import find_paths
from ppo_lm.kernels import support
from tests.conftest import make_base
from tests.kernels.elementwise_cases import CASES, DTYPES, relative_error
from tests.kernels.interpret_elementwise import CPU, passes

OFF = {torch.float32: 1e-6, torch.bfloat16: 5e-3}  # the interpreter does not round to bf16, it truncates


@pytest.fixture(scope="module")
def interpreted(interpret):
    return interpret("interpret_elementwise")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_give_what_the_formulas_give(interpreted, dtype):
    for name, case in CASES.items():
        found, expected = interpreted[0][name, dtype], case.expected(CPU, dtype)
        assert len(found) == len(expected)
        for ours, exact in zip(found, expected):
            assert (ours.dtype, ours.shape, ours.is_contiguous()) == (dtype, exact.shape, True), name
            assert relative_error(ours, exact) < OFF[dtype], name


def test_passes_with_kernels_give_the_states_and_gradients_of_passes_without(interpreted):
    for found, expected in zip(interpreted[1], passes(), strict=True):
        assert relative_error(found, expected.double()) < 1e-5


def test_a_device_on_which_triton_fails_keeps_torchs_operations():
    """A CPU is one, with Triton or without it."""
    reason = support.why_not_triton(CPU, torch.float32)
    assert reason is not None and reason.startswith("Triton fails its trial: ")
    paths = dataclasses.replace(find_paths(make_base().network, fast=True), why_not_kernels=reason)
    assert paths.notes == [f"without our own kernels: {reason}"]


def test_no_memory_for_the_trial_is_no_reason(monkeypatch):
    def no_memory(*tensors):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(support.gpu, "exponentials", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        support.why_not_triton(CPU, torch.float32)

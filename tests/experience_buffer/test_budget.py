"""What is learnt about memory, and that no other error is taken for out of memory."""

import weakref

import pytest
import torch

from ppo_lm.errors import UserError
from ppo_lm.experience_buffer import MemoryBudget, compute_in_micro_batches
from tests.conftest import make_pairs

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4000 bytes"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.43 GB, max allowed: 18.13 GB)"),
]
OTHER = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("Unable to pin memory of a tensor on this device"),
    ValueError("out of memory"),
]


def rewards(pairs):
    return torch.where(pairs.action_mask, pairs.rewards, 0.0)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_running_out_of_memory_halves_the_budget_and_the_result_is_the_same(error):
    pairs, said = make_pairs(rows=7, dtype=torch.float32), []
    budget = MemoryBudget(50, say=said.append)

    def compute(part):
        if part.attention_mask.sum() > 25:
            raise error
        return rewards(part)

    assert torch.equal(compute_in_micro_batches(pairs, budget, compute), rewards(pairs))
    assert budget.tokens == 25
    assert said == ["out of memory with 50 tokens in a micro-batch; at most 25 from now on"]


@pytest.mark.parametrize("error", OTHER, ids=str)
def test_other_errors_are_not_taken_for_out_of_memory(error):
    def broken(part):
        raise error

    budget = MemoryBudget(64)
    with pytest.raises(type(error), match=str(error)[:20]):
        compute_in_micro_batches(make_pairs(rows=3), budget, broken)
    assert budget.tokens == 64


def test_the_budget_becomes_half_of_what_was_in_memory():
    """A budget far above the whole batch is not halved ten times in vain."""
    pairs, tried = make_pairs(rows=7, dtype=torch.float32), []
    total = int(pairs.attention_mask.sum())

    def compute(part):
        tried.append(int(part.attention_mask.sum()))
        if tried[-1] == total:
            raise MemoryError
        return rewards(part)

    budget = MemoryBudget(100_000)
    compute_in_micro_batches(pairs, budget, compute)
    assert budget.tokens == total // 2
    assert tried.count(total) == 1


def test_a_failed_attempt_is_gone_from_memory_before_the_next(monkeypatch):
    """Including what only its error's traceback or a reference cycle keeps alive; torch's cache is emptied after
    that."""
    held, alive = [], []

    def compute(part):
        if not held:
            big = torch.zeros(1000)
            cycle = [big]
            cycle.append(cycle)
            held.append(weakref.ref(big))
            raise RuntimeError("CUDA driver error: out of memory")
        return rewards(part)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(held[0]() is not None))
    compute_in_micro_batches(make_pairs(rows=3, dtype=torch.float32), MemoryBudget(64), compute)
    assert alive == [False]


def test_one_sequence_that_does_not_fit_is_reported_in_one_sentence():
    def never(part):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(UserError, match=r"a single sequence of 13 tokens \(CUDA out of memory.*\); lower max_new_tok"):
        compute_in_micro_batches(make_pairs(rows=3), MemoryBudget(64), never)


def test_what_was_learnt_can_be_saved():
    budget = MemoryBudget(64, slots=8)
    budget.load_state_dict(MemoryBudget(32, slots=4).state_dict())
    assert (budget.tokens, budget.slots) == (32, 4)

"""Our sums of matrix products for CPUs against fp64."""

import pytest
import torch

from ppo_lm.kernels import cpu
from tests.conftest import WHY_NO_KERNELS
from tests.kernels.elementwise_cases import relative_error

pytestmark = pytest.mark.fast

OFF = {torch.float32: 2e-6, torch.bfloat16: 3e-3}
SIZES = {  # rows, inner, columns
    "one of each": (1, 1, 1),
    "odd sizes": (7, 33, 49),
    "few rows": (8, 64, 96),
    "more words than a panel has": (5, 2500, 17),
    "more rows than a block has": (1500, 8, 100),
    "one panel, many rows": (300, 40, 16),
}


def matrix(rows, columns, dtype, across):
    """Random, with gaps between its rows or, if it lies across, between its columns."""
    wide = torch.randn((columns, rows + 3) if across else (rows, columns + 3)).to(dtype)
    return wide[:, :rows].T if across else wide[:, :columns]


@pytest.mark.parametrize("across", [(False, False), (False, True), (True, False), (True, True)], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_they_give_what_fp64_gives_in_any_layout(size, across, dtype):
    torch.manual_seed(0)
    rows, inner, columns = SIZES[size]
    a, b = matrix(rows, inner, dtype, across[0]), matrix(inner, columns, dtype, across[1])
    expected = a.double() @ b.double()
    assert relative_error(cpu.sum_products([(a, b)]), expected) < OFF[dtype]
    assert relative_error(cpu.sum_products([(a, cpu.Packed(b))]), expected) < OFF[dtype]


@pytest.mark.parametrize("kind", ["a row", "rows"])
def test_products_of_many_depths_and_what_is_added_make_one_sum(kind, dtype):
    torch.manual_seed(0)
    pairs = [(matrix(21, inner, dtype, False), matrix(inner, 50, dtype, True)) for inner in (3, 700, 16)]
    add = torch.randn(50).to(dtype) if kind == "a row" else matrix(21, 50, dtype, False)
    into = torch.full((21, 60), 7.0, dtype=dtype)
    found = cpu.sum_products(pairs, add, into[:, 5:55])
    expected = sum((a.double() @ b.double() for a, b in pairs), add.double())
    assert relative_error(into[:, 5:55], expected) < OFF[dtype]
    assert found.data_ptr() == into[:, 5:55].data_ptr()
    assert (into[:, :5] == 7).all() and (into[:, 55:] == 7).all()


@pytest.mark.parametrize("inner", [(40, 40, 40), (130, 30, 90), (64, 65, 900), (300, 1700, 16)], ids=str)
@pytest.mark.parametrize("rank", [2, 12, 64, 200])
def test_an_adapter_of_zeros_changes_no_bit_of_the_layers_sum(inner, rank, dtype):
    torch.manual_seed(0)
    pairs = [(matrix(9, size, dtype, False), matrix(size, 50, dtype, True)) for size in inner]
    adapter = (torch.zeros(9, rank, dtype=dtype), matrix(rank, 50, dtype, False))
    assert torch.equal(cpu.sum_products([adapter, *pairs]), cpu.sum_products(pairs))


@pytest.mark.skipif(bool(WHY_NO_KERNELS), reason=str(WHY_NO_KERNELS))
def test_the_sum_is_rounded_once():
    """Each small number would be lost if it were added to a sum that is already in bf16."""
    one, small = torch.ones(1, 1).bfloat16(), torch.full((1, 1), 2.0**-9).bfloat16()
    assert cpu.sum_products([(one, one), (small, one), (small, one), (small, one), (-one, one)]).item() == 3 * 2.0**-9


@pytest.mark.parametrize("packs", [False, True], ids=["as it is", "packed"])
def test_a_row_does_not_depend_on_the_others_or_on_the_number_of_threads(packs, dtype):
    torch.manual_seed(0)
    x, b = torch.randn(203, 1300).to(dtype), torch.randn(100, 1300).to(dtype).T
    right = cpu.Packed(b) if packs else b
    whole, threads = cpu.sum_products([(x, right)]), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        parts = [cpu.sum_products([(x[start:end], right)]) for start, end in [(0, 1), (1, 8), (8, 77), (77, 203)]]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.cat(parts), whole)


def test_a_nan_spoils_only_its_own_row(dtype):
    x = torch.ones(9, 5, dtype=dtype)
    x[4, 4] = torch.nan
    found = cpu.sum_products([(x, torch.ones(5, 3, dtype=dtype))])
    assert found[4].isnan().all() and not torch.cat([found[:4], found[5:]]).isnan().any()


def test_a_packed_matrix_takes_another_in_its_place(dtype):
    torch.manual_seed(0)
    x, first, second = torch.randn(4, 20).to(dtype), torch.randn(20, 70).to(dtype), torch.randn(20, 70).to(dtype)
    packed = cpu.Packed(first)
    address = packed.data_ptr()
    packed.load(second)
    assert packed.data_ptr() == address
    assert torch.equal(cpu.sum_products([(x, packed)]), cpu.sum_products([(x, second)]))

"""Hashes that change when a value, a model or the code of a part does, and only then."""

import functools
import importlib.util
from datetime import date

import numpy as np
import pytest
import torch

from ppo_lm.advantage import TDError
from ppo_lm.fingerprint import fingerprint, fingerprint_weights, source_of
from ppo_lm.fingerprint.values import PIECE
from ppo_lm.optimisation.parts import SCHEDULES

pytestmark = pytest.mark.fast


def of(tensor):
    return fingerprint_weights([("w", tensor)])


def test_equal_values_have_equal_hashes_whatever_holds_them():
    assert fingerprint([1.5, 2.5]) == fingerprint(np.array([1.5, 2.5])) == fingerprint(torch.tensor([1.5, 2.5]))
    assert fingerprint({"a": date(2026, 1, 2)}) == fingerprint({"a": "2026-01-02"})
    assert fingerprint(b"x") != fingerprint(b"y")
    assert fingerprint([object()]) == fingerprint([object()])  # no addresses
    assert len({fingerprint(value) for value in (1, "1", [1], {"1": 1}, None, 1.5)}) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.bool])
def test_weights_of_any_dtype(dtype):
    weight = (torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) * 10).to(dtype)
    changed = weight.clone()
    changed[3, 2] = not changed[3, 2] if dtype is torch.bool else changed[3, 2] + 1
    assert of(weight) == of(weight.clone()) == of(weight.T.contiguous().T)
    assert of(weight) != of(changed)
    assert of(weight) != of(weight.view(5, 7))


def test_every_bit_and_every_place_counts():
    weight = torch.zeros(PIECE + 3)
    found = {of(weight)}
    for place in (0, 1, PIECE - 1, PIECE, PIECE + 2):
        changed = weight.clone()
        changed[place] = 1e-45  # the smallest number above 0
        found.add(of(changed))
    assert len(found) == 6
    pair = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert len({of(pair[order]) for order in ([0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2])}) == 4
    assert fingerprint_weights([("a", pair)]) != fingerprint_weights([("b", pair)])
    assert of(torch.zeros(0)) == of(torch.zeros(0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_computes_the_same_hash():
    weight = torch.randn(PIECE + 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert of(weight.cuda()) == of(weight)


CODE = """
import functools

FACTOR = {factor}

def helper(text):
    return FACTOR * len(text)  {comment}

@functools.lru_cache
def judge(text):
    return helper(text)

class Judge:
    def __call__(self, text):
        return helper(text)
"""


def load(file, **parts):
    file.write_text(CODE.format(**{"factor": 1, "comment": "", **parts}))
    spec = importlib.util.spec_from_file_location("judge_of_a_test", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "part",
    [
        lambda module: module.judge,
        lambda module: module.Judge,
        lambda module: module.Judge(),
        lambda module: module.Judge().__call__,
        lambda module: functools.partial(module.helper, "x"),
    ],
    ids=["decorated", "class", "object", "method", "partial"],
)
def test_the_code_of_the_file_counts_but_not_its_comments(tmp_path, part):
    file = tmp_path / "judge.py"
    first = source_of(part(load(file)))
    assert first is not None
    assert source_of(part(load(file, comment="# as before"))) == first
    assert source_of(part(load(file, factor=2))) != first


def test_in_a_script_only_the_function_itself_counts(tmp_path):
    def judge_of(**parts):
        judge = load(tmp_path / "judge.py", **parts).helper
        judge.__module__ = "__main__"
        return source_of(judge)

    assert judge_of() == judge_of(factor=2)


def test_code_without_a_file_is_compared_as_it_was_compiled():
    judges = [eval(text) for text in ("lambda t: len(t)", "lambda t: len(t)", "lambda t: len(t) + 1")]
    one, same, other = map(source_of, judges)
    assert one == same != other


def test_parts_of_the_package_and_of_python_itself_have_versions_instead():
    assert source_of(TDError) is source_of(TDError()) is source_of(len) is None
    assert source_of(SCHEDULES.find("cosine")) is None  # a NamedTuple, most of whose methods are Python's

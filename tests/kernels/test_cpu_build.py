"""How the kernels for CPUs are compiled, kept, and done without."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from ppo_lm import kernels
from ppo_lm.fast.paths import find_paths
from ppo_lm.kernels import cpu, support
from ppo_lm.kernels.cpu import build
from ppo_lm.models import BaseModel
from ppo_lm.run.identity import KERNELS, identify_base
from tests.conftest import make_base


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """The compiler, which writes a line for each time that it runs, and an empty cache."""
    real = shutil.which(os.environ.get("CXX") or "g++")
    if real is None:
        pytest.skip("no C++ compiler is installed")
    write_script(tmp_path / "compiler", f'echo run >> "{tmp_path}/runs"\nexec "{real}" "$@"')
    monkeypatch.setenv("CXX", str(tmp_path / "compiler"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def write_script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def load():
    """As another process would."""
    return build.load_library.__wrapped__(torch.float32)


def test_they_are_compiled_once(compiler):
    assert load().swiglu and load().swiglu
    assert (compiler / "runs").read_text() == "run\n"
    assert [file.suffix for file in (compiler / "cache" / "ppo_lm").iterdir()] == [".so"]


def test_a_cache_that_cannot_be_written_does_not_matter(compiler, monkeypatch):
    (compiler / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(compiler / "file"))
    assert load().swiglu


def test_a_library_that_was_cut_off_is_made_again(compiler, monkeypatch):
    """To load it would end the process."""
    with monkeypatch.context() as patched:
        patched.setattr(build.ctypes, "CDLL", Path)  # a process loads a path once
        file = load()
        whole = file.read_bytes()
        file.write_bytes(whole[:1000])
        assert load().read_bytes() == whole
    assert load().swiglu
    assert (compiler / "runs").read_text() == "run\nrun\n"


def test_the_reason_is_what_the_compiler_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_script(tmp_path / "compiler", "echo 'x.cpp:1: error: no vectors here' >&2; exit 1")
    monkeypatch.setenv("CXX", str(tmp_path / "compiler"))
    with pytest.raises(cpu.NoKernels, match="the compiler refuses them: x.cpp:1: error: no vectors here"):
        load()
    assert not list((tmp_path / "cache" / "ppo_lm").iterdir())


def test_without_a_compiler_torchs_operations_take_their_place_and_the_run_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(cpu.NoKernels, match="no C.. compiler was found .no-such-compiler."):
        load()
    monkeypatch.setattr(cpu, "load_library", build.load_library.__wrapped__)
    support.why_not.cache_clear()
    try:
        assert kernels.find(torch.ones(2, 2)) is None
        paths = find_paths(make_base().network, fast=True)
        assert paths.notes == ["without our own kernels: no C++ compiler was found (no-such-compiler)"]
    finally:
        support.why_not.cache_clear()


def test_other_dtypes_and_tensors_with_gaps_are_left_to_torch(dtype):
    x = torch.ones(4, 4, dtype=dtype)
    assert kernels.find(x) is cpu and kernels.find_on_cpu(x) is cpu
    assert kernels.find(x, x.T[:, ::2]) is None
    assert kernels.find(x.double()) is None and kernels.find(x.half()) is None
    assert kernels.find(x, x.double()) is None


def test_what_a_checkpoint_records_says_whether_they_run(monkeypatch):
    """With `fast` off too: sampling uses them."""
    plain, found = make_base(), []
    base = BaseModel(plain.network, plain.tokenizer, [1], "random", fast=False)
    for reason in (None, "no C++ compiler was found (g++)"):
        monkeypatch.setattr(kernels, "why_not", lambda device, dtype, reason=reason: reason)
        found.append(identify_base(base))
    with_kernels, without = found
    assert {name for name in without if without[name] != with_kernels[name]} == {KERNELS}

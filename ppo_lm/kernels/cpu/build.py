"""Compiles the kernels for a dtype, for this processor, once: later processes load the same library."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from ppo_lm.errors import first_line
from ppo_lm.terminal.working import working

NUMBERS = {torch.float32: "float", torch.bfloat16: "bf16"}
SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-shared")
LIMIT = 120  # seconds


class NoKernels(Exception):
    """Why there are none: a clause."""


@functools.cache
def load_library(dtype: torch.dtype) -> ctypes.CDLL:
    """Raises `NoKernels`."""
    if dtype not in NUMBERS:
        raise NoKernels(f"there are none for {str(dtype).removeprefix('torch.')} on a CPU")
    openmp, compiler = _loaded_openmp(), os.environ.get("CXX") or "g++"
    found = shutil.which(compiler)
    if found is None:
        raise NoKernels(f"no C++ compiler was found ({compiler})")
    command = [found, *FLAGS, f"-DNUMBER={NUMBERS[dtype]}", *map(str, SOURCES), openmp, "-Wl,--as-needed"]
    try:
        return ctypes.CDLL(str(_compile(command)))
    except OSError as error:
        raise NoKernels(f"they cannot be loaded: {first_line(error)}") from error


def _loaded_openmp() -> str:
    """The OpenMP library that torch has loaded. With another one, two sets of threads would wait for each other."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text(encoding="utf-8", errors="replace").splitlines() if maps.exists() else []
    found = [line.split(maxsplit=5)[5] for line in lines if "/libgomp" in line]
    if not found:
        raise NoKernels("torch does not use GNU's OpenMP here")
    return found[0]


def _compile(command: list[str]) -> Path:
    """The library of this command, made unless it exists. Its name has the hash of what it is made from and that of its
    content: to load a file that was cut off would end the process."""
    parts = [*command, _processor(), *(file.read_text(encoding="utf-8") for file in (*SOURCES, *HEADERS))]
    folder, made_from = _folder(), _hash(os.fsencode("\0".join(parts)))
    for file in folder.glob(f"kernels-{made_from}-*.so"):
        if file.stem.endswith(_hash(file.read_bytes())):
            return file
    with tempfile.TemporaryDirectory(dir=folder) as work:
        made = Path(work) / "kernels.so"
        with working("compiling kernels for this CPU"):
            _run([*command, "-o", str(made)])
        file = folder / f"kernels-{made_from}-{_hash(made.read_bytes())}.so"
        os.replace(made, file)
    return file


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LIMIT)
    except subprocess.TimeoutExpired as error:
        raise NoKernels(f"the compiler takes longer than {LIMIT} seconds") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["it says nothing"]
        raise NoKernels(f"the compiler refuses them: {lines[0]}")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _folder() -> Path:
    """Where libraries are kept: the user's cache or, if that cannot be written, a folder of this process."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ppo_lm"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(_temporary_folder().name)


@functools.cache
def _temporary_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="ppo_lm-")


def _processor() -> str:
    """What -march=native means: a home folder may be shared by different machines."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))

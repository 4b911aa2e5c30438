"""What a run runs on."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import torch

import ppo_lm

PACKAGES = ("torch", "transformers", "peft", "datasets")


def describe_environment() -> dict[str, str]:
    """Versions and hardware, for people."""
    found = {"ppo_lm": ppo_lm.__version__, "Python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    found["system"] = platform.platform(terse=True)
    found["CPUs"], found["CPU threads"] = str(os.cpu_count()), str(torch.get_num_threads())
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.get_device_name()
    return found

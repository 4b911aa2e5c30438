"""The machines that a run can be planned for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ppo_lm.base_setup import pick_device
from ppo_lm.base_setup.base_setup import pick_dtype
from ppo_lm.config import PlanConfig
from ppo_lm.errors import ConfigError
from ppo_lm.tracking import measure_machine, peak_memory
from ppo_lm.tracking.floor import Machine

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
H100_PRODUCTS = {torch.bfloat16: 989e12, torch.float32: 67e12}


class Hardware(NamedTuple):
    """`hosts` machines with `devices` devices each; on a CPU, a device is a process."""

    name: str
    device_type: str  # "cpu" or "cuda"
    devices: int  # of each host
    hosts: int
    machine: Machine  # the rates of one device
    memory: int  # bytes of one device
    imported: int  # bytes of memory that a process holds once its libraries are imported; 0 on a GPU
    link: float | None  # bytes per second that a device can send to another on its host; None: unknown
    host_link: float | None  # the same to a device of another host
    source: str  # where the numbers come from

    @property
    def processes(self) -> int:
        return self.devices * self.hosts

    def record(self) -> dict[str, Any]:
        """For JSON; rates are those of one device, per second."""
        rates = {"flops": self.machine.operations, "bytes": self.machine.bytes}
        about = {"name": self.name, "devices": self.devices, "hosts": self.hosts, "source": self.source}
        return about | {"rates": rates, "memory_bytes": self.memory}


def find_hardware(config: PlanConfig) -> Hardware:
    """The hardware that `config` names. "here" is measured, which takes about a second. Raises `ConfigError` for a
    device that the cost model does not know."""
    if config.hardware == "h100":
        return h100(config)
    device = pick_device(config.device)
    if device.type not in ("cpu", "cuda"):
        raise ConfigError.of(
            f"hardware is here, where the device is {device.type}; ppo-lm plan knows the CPU and CUDA, so set device "
            "to cpu, or hardware to h100"
        )
    if device.type == "cuda":
        return _gpu_here(device, config)
    return _cpu_here(device, config)


def h100(config: PlanConfig) -> Hardware:
    """NVIDIA H100 SXM, from its data sheet: dense products, 80 GB, NVLink in one direction; between hosts, one 400 Gb/s
    InfiniBand adapter for each GPU, as in NVIDIA's DGX H100."""
    dtype = pick_dtype(config.dtype, torch.device("cuda"))
    return Hardware(
        name="H100 SXM",
        device_type="cuda",
        devices=config.devices or 1,
        hosts=config.hosts,
        machine=Machine(H100_PRODUCTS[dtype], 3.35e12),
        memory=80 * 10**9,
        imported=0,
        link=450e9,
        host_link=50e9,
        source="NVIDIA's data sheets",
    )


def _gpu_here(device: torch.device, config: PlanConfig) -> Hardware:
    dtype = pick_dtype(config.dtype, device)
    return Hardware(
        name=torch.cuda.get_device_name(device),
        device_type="cuda",
        devices=config.devices or torch.cuda.device_count(),
        hosts=config.hosts,
        machine=measure_machine(device, dtype),
        memory=torch.cuda.get_device_properties(device).total_memory,
        imported=0,
        link=None,
        host_link=None,
        source="measured now",
    )


def _cpu_here(device: torch.device, config: PlanConfig) -> Hardware:
    """The processes of a CPU share its rates and its memory."""
    import ppo_lm.ppo_trainer  # noqa: F401  (what a run imports)

    imported, processes = int(peak_memory(device) * 2**20), config.devices or 1
    measured = measure_machine(device, pick_dtype(config.dtype, device))
    return Hardware(
        name=f"this CPU, {torch.get_num_threads()} threads",
        device_type="cpu",
        devices=processes,
        hosts=config.hosts,
        machine=Machine(*(rate / processes for rate in measured)),
        memory=system_memory() // processes,
        imported=imported,
        link=None,
        host_link=None,
        source="measured now",
    )


def system_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's limit if that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP_LIMIT.read_text(encoding="ascii").strip() if CGROUP_LIMIT.exists() else "max"
    return total if limit == "max" else min(total, int(limit))

"""Where the time of one of our steps goes on a CPU, by kind of operation, and how fast its matrix products are.

    uv run benchmarks/cpu_step.py [--workload smollm2] [--dtype bfloat16]

Profiles one step after two others, then times the largest products again, alone, with one thread and with all: as they
are made here, by our own kernel or by torch's library, and by torch's.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import torch
from our_ppo import make_trainer
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile, record_function
from workloads import WORKLOADS, make_prompts, prepare

from ppo_lm.ops.products import sum_products
from ppo_lm.tracking import peak_memory

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::addmm_", "mkldnn::_linear_pointwise", "kernel::sum_products"),
    "layers of decode steps, products included": ("kernel::decode",),
    "attention": (
        "aten::bmm",
        "aten::baddbmm",
        "aten::_softmax",
        "aten::_softmax_backward_data",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "kernel::attend",
        "kernel::attend_gradients",
        "kernel::attend_cached",
    ),
    "weights laid out for sampling": ("mkldnn::_reorder_linear_weight", "kernel::pack"),
}
WITH_KERNELS = ("attention", "decode", "elementwise", "products", "vocabulary")
LARGEST = 8  # products that are timed again
REPEATS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=WORKLOADS, default="smollm2")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="where to keep the models")
    arguments = parser.parse_args()
    imported = peak_memory(torch.device("cpu"))
    workload = WORKLOADS[arguments.workload]
    trainer = make_trainer(workload, prepare(arguments.folder, workload.model), 3, 16, arguments.dtype)
    size = trainer.base.network.config.vocab_size
    prompts = make_prompts(workload, workload.prompts * 3, size)
    *warm_up, last = (prompts[start : start + workload.prompts] for start in range(0, len(prompts), workload.prompts))
    for batch in warm_up:
        trainer.ppo_step(batch)
    peak = peak_memory(trainer.base.device)  # before the profiler adds to it
    for name in WITH_KERNELS:
        module = import_module(f"ppo_lm.kernels.cpu.{name}")
        module.kernel = named(module.kernel)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        trainer.ppo_step(last)
    console = Console(width=120)
    console.print(f"peak memory {peak:,.0f} MiB, after the imports {imported:,.0f} MiB")
    console.print(kinds_table(profiled.key_averages()))
    console.print(products_table(profiled.key_averages(group_by_input_shape=True), getattr(torch, arguments.dtype)))


def named(find: Callable[..., Callable[..., None]]) -> Callable[..., Callable[..., None]]:
    """Kernels of ours that the profiler sees, products by their shape: rows, inner and columns."""

    def find_named(name: str, dtype: torch.dtype) -> Callable[..., None]:
        kernel = find(name, dtype)

        def call(*arguments) -> None:
            shape = ""
            if name == "sum_products":
                rows, columns = arguments[-2:]
                shape = f" {rows} {sum(product.inner for product in arguments[0])} {columns}"
            with record_function(f"kernel::{name}{shape}"):
                kernel(*arguments)

        return call

    return find_named


def kinds_table(operations: Sequence) -> Table:
    """Seconds by kind of operation, without what an operation calls."""
    kind_of = {name: kind for kind, names in KINDS.items() for name in names}
    seconds, calls = Counter(), Counter()
    for operation in operations:
        kind = kind_of.get(operation.key.split()[0], "everything else")
        seconds[kind] += operation.self_cpu_time_total / 1e6
        calls[kind] += operation.count if operation.key.startswith(("aten::", "mkldnn::", "kernel::")) else 0
    table = Table(title=f"one step, {sum(seconds.values()):.2f} s with the profiler on")
    for heading in ("kind", "seconds", "share", "calls"):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    for kind, spent in seconds.most_common():
        table.add_row(kind, f"{spent:.2f}", f"{spent / sum(seconds.values()):.0%}", f"{calls[kind]:,}")
    return table


def products_table(operations: Sequence, dtype: torch.dtype) -> Table:
    """The products that take most of the time: in the step, and again alone with one thread and with all."""
    found: dict[tuple[int, int, int], list[float]] = {}
    for operation in operations:
        shape = product_shape(operation)
        if shape:
            found.setdefault(shape, []).append(operation.self_cpu_time_total / 1e6)
    threads = torch.get_num_threads()
    table = Table(title="the largest products, rows × inner × columns, in TFLOP/s alone")
    for heading in ("product", "seconds of the step", "one thread", f"{threads} threads", f"torch, {threads} threads"):
        table.add_column(heading, justify="left" if heading == "product" else "right")
    for shape, spent in sorted(found.items(), key=lambda item: -sum(item[1]))[:LARGEST]:
        ours = [rate(shape, dtype, count, lambda x, weight: sum_products([(x, weight)])) for count in (1, threads)]
        rates = [*ours, rate(shape, dtype, threads, torch.mm)]
        table.add_row(" × ".join(map(str, shape)), f"{sum(spent):.2f}", *[f"{each / 1e12:.2f}" for each in rates])
    return table


def product_shape(operation) -> tuple[int, int, int] | None:
    """Rows, inner and columns of a product."""
    name, *sizes = operation.key.split()
    if name == "kernel::sum_products":
        rows, inner, columns = map(int, sizes)
        return rows, inner, columns
    shapes = [tuple(shape) for shape in operation.input_shapes if shape]
    if name not in ("aten::mm", "aten::addmm_") or len(shapes) < 2:
        return None
    (rows, inner), (_, columns) = shapes[-2:]
    return rows, inner, columns


def rate(shape: tuple[int, int, int], dtype: torch.dtype, threads: int, multiply: Callable[..., torch.Tensor]) -> float:
    """Floating-point operations per second of x·Wᵀ, the fastest of a few."""
    rows, inner, columns = shape
    x, weight, before = (
        torch.randn(rows, inner).to(dtype),
        torch.randn(columns, inner).to(dtype).T,
        torch.get_num_threads(),
    )
    torch.set_num_threads(threads)
    try:
        times = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            multiply(x, weight)
            times.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    return 2 * rows * inner * columns / min(times)


if __name__ == "__main__":
    main()

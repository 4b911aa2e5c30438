"""Starts SGLang's server on a CPU without the package `sglang-kernel`, of which PyPI has a build for CUDA only:

    python sglang_on_cpu.py --model-path MODEL --device cpu --attention-backend torch_native ...

On a CPU without AMX, SGLang uses torch for everything but one function, which is replaced here. Pinned memory is
switched off, since there is no GPU to copy from it. Everything else is SGLang's own: the HTTP server, its schema, the
scheduler, the adapters and sampling.
"""

import importlib.machinery
import sys
import types

import torch


def assign_req_to_token_pool_cpu(rows, table, starts, ends, places, width):
    """Enter into `table`, for each request, where its new tokens are in the cache."""
    done = 0
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist()):
        table[row, start:end] = places[done : done + end - start].to(table.dtype)
        done += end - start


class Kernels(types.ModuleType):
    """The package, with functions that fail if they are called."""

    __path__ = ()
    __version__ = "0.4.10"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_, **__):
            raise NotImplementedError(f"sgl_kernel.{name}")

        return missing


def unpinned(make):
    return lambda *given, pin_memory=False, **named: make(*given, **named)


# at import, because SGLang starts its other processes with this file too
kernels = Kernels("sgl_kernel")
kernels.assign_req_to_token_pool_cpu = assign_req_to_token_pool_cpu
kernels.__spec__ = importlib.machinery.ModuleSpec("sgl_kernel", None)
sys.modules["sgl_kernel"] = kernels
torch.tensor, torch.zeros = unpinned(torch.tensor), unpinned(torch.zeros)
torch.Tensor.pin_memory = lambda self, *_, **__: self

if __name__ == "__main__":
    from sglang.launch_server import run_server
    from sglang.srt.server_args import prepare_server_args

    run_server(prepare_server_args(sys.argv[1:]))

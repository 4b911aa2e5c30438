"""Counts what would make the host wait for a GPU, on any device."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import ppo_lm

PACKAGE = str(Path(ppo_lm.__file__).parent)
WAITS = {  # by the name of the operation: their results' shapes depend on values, or they give the host a value
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "lift_fresh",  # of torch.tensor(list) and of x[list], which are copied to the device
    "masked_scatter_backward",
    "masked_select",
    "nonzero",
    "_unique2",
    "unique_dim",
}
INDEXING = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}  # with a mask, they call nonzero
MASKS = (torch.bool, torch.uint8)
COPIES = {torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy}


class SyncCounter(TorchDispatchMode):
    """Inside the block, counts the operations of the package that wait for the device or copy a list to it: `total`,
    and `places`, by line and operation. Copies by `to` do not count: on a CPU there are none.

    Example::

        with SyncCounter() as syncs:
            policy.action_logprobs(pairs)
        assert syncs.total <= 5, syncs
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()
        self._calls = _Calls(self._count)

    @property
    def total(self) -> int:
        return sum(self.places.values())

    def __str__(self) -> str:
        return "\n".join(f"{count} × {place}" for place, count in self.places.most_common())

    def __enter__(self) -> SyncCounter:
        self._calls.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._calls.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        by_mask = name in INDEXING and any(index is not None and index.dtype in MASKS for index in args[1])
        of_unknown_size = name == "repeat_interleave" and kwargs.get("output_size") is None
        if name in WAITS or by_mask or of_unknown_size:
            self._count(name)
        return func(*args, **kwargs)

    def _count(self, name: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(PACKAGE)]
        if frames:
            place = Path(frames[-1].filename).relative_to(PACKAGE)
            self.places[f"{place}:{frames[-1].lineno} {name}"] += 1


class _Calls(TorchFunctionMode):
    """Calls that are no operation on a CPU."""

    def __init__(self, count: Callable[[str], None]):
        super().__init__()
        self.count = count

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in COPIES:
            self.count(func.__name__)
        return func(*args, **(kwargs or {}))

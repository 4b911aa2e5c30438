"""A function on tensors that stay where they are, as a CUDA graph for each of its arguments."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Replayed:
    """Calls `work` with integers. On a GPU, the second call with the same integers records all that it launches, and
    later calls launch that at once; on other devices, every call runs `work`."""

    def __init__(self, work: Callable[..., None], device: torch.device):
        self._work, self._records = work, device.type == "cuda"
        self._graphs: dict[tuple[int, ...], torch.cuda.CUDAGraph | None] = {}

    def __call__(self, *arguments: int) -> None:
        graph = self._graphs.get(arguments)
        if graph is None and self._records and arguments in self._graphs:
            graph = self._graphs[arguments] = self._record(arguments)
        if graph is None:  # libraries prepare themselves in a first call, which no graph can contain
            self._graphs[arguments] = None
            self._work(*arguments)
        else:
            graph.replay()

    def _record(self, arguments: tuple[int, ...]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        others = [other for other in self._graphs.values() if other is not None]
        # only one runs at a time, so they can share memory
        with torch.cuda.graph(graph, pool=others[0].pool() if others else None):
            self._work(*arguments)
        return graph

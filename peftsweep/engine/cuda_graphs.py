"""Passes as CUDA graphs: thousands of kernel launches, submitted to the GPU at once instead of one by one.

A graph works for one shape of pass. Packed batches have few shapes (text_packing.py): the first pass of a shape is
captured, and later ones replay it with other numbers. All graphs share one memory pool that fits the largest captured
pass. A larger pass starts a new pool, because a pool that grows keeps blocks of every size that it ever had.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from peftsweep.engine.batching import MicroBatch
from peftsweep.engine.limits import Say, silent
from peftsweep.engine.oom import translate_oom
from peftsweep.errors import first_line

SHAPES = 64  # graphs held at once


@dataclass(frozen=True)
class Graph:
    graph: torch.cuda.CUDAGraph
    buffer: Tensor  # what the graph reads
    result: Tensor  # what it writes


Work = Callable[[MicroBatch], Tensor]


class CudaGraphs:
    """Runs a function from a pass to a tensor, by replaying a graph where possible. The function is an argument of each
    call: stored here, a method of a pack would keep the pack and all of its memory alive.

    The first call runs without a graph, because kernels are compiled and libraries initialised in it. So do all calls
    if the base cannot be captured, because its code depends on values on the GPU.

    Args:
        say: called with the reason why a base cannot be captured.

    Attributes:
        captured: how many passes became graphs.
    """

    def __init__(self, say: Say = silent) -> None:
        self.say = say
        self.known: OrderedDict[Any, Graph] = OrderedDict()
        self.warm = self.refused = False
        self.largest = self.captured = 0
        self.pool: Any = None

    def __call__(self, function: Work, batch: MicroBatch) -> Tensor:
        if not self.warm:
            result = function(batch)
            self.warm = True  # only now: after an error, parts of it would run for the first time in a capture
            return result
        if batch.shape not in self.known and not self.refused:
            torch.cuda.empty_cache()  # frees unused memory for the pool; this waits for the GPU
            self.capture(function, batch)
        if self.refused:
            return function(batch)
        self.known.move_to_end(batch.shape)
        graph = self.known[batch.shape]
        graph.buffer.copy_(batch.rows.buffer, non_blocking=True)
        graph.graph.replay()
        return graph.result.clone()

    def prepare(self, function: Work, batches: Sequence[MicroBatch]) -> None:
        """Capture the new shapes of the next step. That is work for the CPU only, and the GPU may still run the step
        before. If a pass is larger than all before it, capture nothing: that pass will start a new pool."""
        if any(
            batch.size > self.largest for batch in batches
        ):  # always so before the first call, and if the base cannot be captured
            return
        for batch in batches:
            if batch.shape in self.known:
                self.known.move_to_end(batch.shape)
            else:
                self.capture(function, batch)

    def capture(self, function: Work, batch: MicroBatch) -> None:
        """Capture a graph of a pass, or find out that this base cannot be captured.

        Raises:
            torch.OutOfMemoryError: the graph does not fit into memory.
        """
        if batch.size > self.largest:
            self.drop()
            self.largest = batch.size
        while len(self.known) >= SHAPES:
            self.known.popitem(last=False)
        try:
            with translate_oom():
                self.known[batch.shape] = self.recorded(function, batch)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # nothing has been computed yet
            self.refused = True
            self.say(f"graphs: the base cannot be captured, so steps are slower: {first_line(error)}")
            self.drop()
        else:
            self.captured += 1

    def recorded(self, function: Work, batch: MicroBatch) -> Graph:
        """A graph of a pass. Capturing runs nothing, and all graphs are replayed on one stream, so this graph may use
        memory of the pool that another one is working in. (`torch.cuda.graph` would wait for the GPU.)"""
        buffer, graph = batch.rows.buffer.clone(), torch.cuda.CUDAGraph()
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
        with torch.cuda.stream(_stream(buffer.device)):
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            try:
                result = function(batch.over(buffer))
            except BaseException:
                with suppress(RuntimeError):  # it only repeats that there was an error
                    graph.capture_end()
                raise
            graph.capture_end()
        return Graph(graph, buffer, result)

    def drop(self) -> None:
        """Drop all graphs and release their memory."""
        self.known.clear()
        self.largest, self.pool = 0, None
        torch.cuda.empty_cache()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of all captures. One only, because libraries keep memory for every stream that they ever used."""
    return torch.cuda.Stream(device)

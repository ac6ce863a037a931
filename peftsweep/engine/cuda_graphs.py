"""Passes as CUDA graphs: thousands of launches that a processor would make one by one, given to the GPU at once.

A graph knows one shape of pass. Packed batches come in few shapes (text_packing.py): a pass of a new shape is captured,
and those after it are replayed on other numbers. All graphs share one pool of memory, in which the largest captured
pass has room: a larger one begins it anew, for a pool that grows would hold on to blocks of every size that it ever
had.
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

SHAPES = 64  # held at once


@dataclass(frozen=True)
class Graph:
    graph: torch.cuda.CUDAGraph
    buffer: Tensor  # what the graph reads
    result: Tensor  # what it writes


Work = Callable[[MicroBatch], Tensor]


class CudaGraphs:
    """One function from a pass to a tensor, replayed where it can be. It comes with each call: kept here, a pack's own
    would keep the pack, and all of its memory.

    `captured` counts the passes that became graphs.

    Args:
        say: called with the reason why a base cannot be captured.

    The first call is made as it is, for in it kernels are still compiled and libraries make themselves at home. So are
    all calls where a base cannot be captured, because it looks at its numbers on the way.
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
            self.warm = True  # not before: half of it would run for the first time in a capture
            return result
        if batch.shape not in self.known and not self.refused:
            torch.cuda.empty_cache()  # what the pool needs may lie idle elsewhere; the GPU is waited for
            self.capture(function, batch)
        if self.refused:
            return function(batch)
        self.known.move_to_end(batch.shape)
        graph = self.known[batch.shape]
        graph.buffer.copy_(batch.rows.buffer, non_blocking=True)
        graph.graph.replay()
        return graph.result.clone()

    def prepare(self, function: Work, batches: Sequence[MicroBatch]) -> None:
        """Capture what is of a new shape in a step to come: it is all the processor's work, and the GPU may still be at
        the step before. Not with a pass larger than all so far: when that is due, memory begins anew with it."""
        if any(
            batch.size > self.largest for batch in batches
        ):  # so it is, too, before the first call and where refused
            return
        for batch in batches:
            if batch.shape in self.known:
                self.known.move_to_end(batch.shape)
            else:
                self.capture(function, batch)

    def capture(self, function: Work, batch: MicroBatch) -> None:
        """Make a graph of a pass, or settle that this base has none.

        Raises:
            torch.OutOfMemoryError: there is no room for it.
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
            self.say(f"graphs: the base cannot be captured, and is slower for it: {str(error).splitlines()[0]}")
            self.drop()
        else:
            self.captured += 1

    def recorded(self, function: Work, batch: MicroBatch) -> Graph:
        """A graph of a pass. Nothing runs meanwhile, and all graphs are replayed on one stream, so that memory of the
        pool may be given to this one while another is at work in it; `torch.cuda.graph` would wait for the GPU."""
        buffer, graph = batch.rows.buffer.clone(), torch.cuda.CUDAGraph()
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
        with torch.cuda.stream(_stream(buffer.device)):
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            try:
                result = function(batch.over(buffer))
            except BaseException:
                with suppress(RuntimeError):  # it would only say that there was an error
                    graph.capture_end()
                raise
            graph.capture_end()
        return Graph(graph, buffer, result)

    def drop(self) -> None:
        """Give all of the memory back."""
        self.known.clear()
        self.largest, self.pool = 0, None
        torch.cuda.empty_cache()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """That of all captures: libraries keep memory for every stream that they ever worked on."""
    return torch.cuda.Stream(device)

"""Slots side by side on a CPU's cores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from peftsweep.engine.slot import Slot

MOST = 4  # workers: only one of them can run Python code at a time
UNEVEN = 1.25  # times the mean load: with a larger share, the others would wait too long for one worker

T = TypeVar("T")


class AbandonedError(Exception):
    """The thread that waited for a worker has stopped waiting."""


class CpuWorkers:
    """A few threads, each with its share of the cores, that divide the slots' work.

    A product over one slot's rows is too small to be worth dividing between cores: two workers with one core each took
    four fifths of the time of one worker with two. Which worker runs a slot changes its numbers by rounding at most.

    Args:
        slots: at most so many are worked on at once.
    """

    def __init__(self, slots: int) -> None:
        cores = torch.get_num_threads()
        self.count = max(n for n in range(1, MOST + 1) if n == 1 or (cores % n == 0 and n <= slots))
        self.abandoned = threading.Event()
        self.threads: ThreadPoolExecutor | None = None
        if self.count == 1:
            return
        self.threads = ThreadPoolExecutor(self.count, "cpu-worker")
        together = threading.Barrier(self.count)

        def begin() -> None:
            torch.set_num_threads(cores // self.count)
            torch.get_num_threads()  # settles it for this thread
            together.wait()

        wait([self.threads.submit(begin) for _ in range(self.count)])
        torch.set_num_threads(cores)  # for the threads to come, which take over what was set last

    def __call__(
        self, work: Callable[[Sequence[Slot]], dict[int, T]], slots: Sequence[Slot], size: Callable[[Slot], int]
    ) -> dict[int, T]:
        """What `work` makes of the slots, by slot.

        Slots that cannot be dealt evenly stay in the caller's thread, which has all the cores.

        Args:
            size: how much work a slot is, in any unit.
        """
        if self.threads is None or len(slots) < self.count:
            return work(slots)
        sizes = [size(slot) for slot in slots]
        parts, load = dealt(slots, sizes, self.count)
        if load * self.count > UNEVEN * sum(sizes):
            return work(slots)
        return self._joined([self.threads.submit(work, part) for part in parts])

    def _joined(self, parts: list[Future[dict[int, T]]]) -> dict[int, T]:
        """The results of all workers, once all have ended: only then can the work of one that failed be undone."""
        try:
            try:
                wait(parts)
            except BaseException:  # a signal
                self.abandoned.set()
                wait(parts)
                self.abandoned.clear()
                raise
            errors = [error for part in parts if (error := part.exception()) is not None]
            errors.sort(key=lambda error: isinstance(error, torch.OutOfMemoryError))  # last, for that is tried again
            if errors:
                raise errors[0]
            return {slot: found for part in parts for slot, found in part.result().items()}
        finally:  # an error's traceback holds on to this frame, and that would hold on to the step's tensors
            errors = []
            parts.clear()

    def check(self) -> None:
        """To be called before each pass.

        Raises:
            AbandonedError: nobody waits for it any more.
        """
        if self.abandoned.is_set():
            raise AbandonedError

    def close(self) -> None:
        if self.threads is not None:
            self.threads.shutdown()


def dealt(slots: Sequence[Slot], sizes: Sequence[int], workers: int) -> tuple[list[list[Slot]], int]:
    """The slots in as many parts of about the same size, each in the slots' own order; and the largest part's size."""
    parts: list[list[int]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for i in sorted(range(len(slots)), key=lambda i: -sizes[i]):
        least = loads.index(min(loads))
        parts[least].append(i)
        loads[least] += sizes[i]
    return [[slots[i] for i in sorted(part)] for part in parts if part], max(loads)

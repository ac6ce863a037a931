"""How do slots share a CPU's cores? A few threads divide the slots among them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from peftsweep.engine.slot import Slot

MAX_WORKERS = 4  # only one of them can run Python code at a time
MAX_IMBALANCE = 1.25  # largest share over the mean share; above it, the others wait too long for one worker

T = TypeVar("T")


class AbandonedError(Exception):
    """The thread that waits for a worker was interrupted."""


class CpuWorkers:
    """A few threads that divide the slots and the cores among them.

    A matrix product over the rows of one slot is too small to be divided between cores: two workers with one core each
    needed four fifths of the time of one worker with two. Which worker runs a slot changes its results by rounding at
    most.

    Args:
        slots: the largest number of slots that are run at once.
    """

    def __init__(self, slots: int) -> None:
        cores = torch.get_num_threads()
        self.count = max(n for n in range(1, MAX_WORKERS + 1) if n == 1 or (cores % n == 0 and n <= slots))
        self.abandoned = threading.Event()
        self.threads: ThreadPoolExecutor | None = None
        if self.count == 1:
            return
        self.threads = ThreadPoolExecutor(self.count, "cpu-worker")
        together = threading.Barrier(self.count)

        def begin() -> None:
            torch.set_num_threads(cores // self.count)
            torch.get_num_threads()  # fixes the number for this thread
            together.wait()

        wait([self.threads.submit(begin) for _ in range(self.count)])
        torch.set_num_threads(cores)  # threads that start later inherit what was set last

    def __call__(
        self, work: Callable[[Sequence[Slot]], dict[int, T]], slots: Sequence[Slot], size: Callable[[Slot], int]
    ) -> dict[int, T]:
        """Run `work` on the slots; returns its results by slot.

        Slots that cannot be divided evenly are run in the caller's thread, which has all the cores.

        Args:
            size: the amount of work of a slot, in any unit.
        """
        if self.threads is None or len(slots) < self.count:
            return work(slots)
        sizes = [size(slot) for slot in slots]
        parts, load = balanced_parts(slots, sizes, self.count)
        if load * self.count > MAX_IMBALANCE * sum(sizes):
            return work(slots)
        return self._joined([self.threads.submit(work, part) for part in parts])

    def _joined(self, parts: list[Future[dict[int, T]]]) -> dict[int, T]:
        """The results of all workers, once all have ended: the work of a failed one can be undone only then."""
        try:
            try:
                wait(parts)
            except BaseException:  # a signal
                self.abandoned.set()
                wait(parts)
                self.abandoned.clear()
                raise
            errors = [error for part in parts if (error := part.exception()) is not None]
            # Full memory comes last, because that work is repeated.
            errors.sort(key=lambda error: isinstance(error, torch.OutOfMemoryError))
            if errors:
                raise errors[0]
            return {slot: found for part in parts for slot, found in part.result().items()}
        finally:  # an error's traceback keeps this frame alive, and the frame would keep the step's tensors
            errors = []
            parts.clear()

    def check(self) -> None:
        """Call this before each pass, so that abandoned work ends soon.

        Raises:
            AbandonedError: nobody waits for the result any more.
        """
        if self.abandoned.is_set():
            raise AbandonedError

    def close(self) -> None:
        if self.threads is not None:
            self.threads.shutdown()


def balanced_parts(slots: Sequence[Slot], sizes: Sequence[int], workers: int) -> tuple[list[list[Slot]], int]:
    """Divide slots into parts of about the same size, in the slots' order; also returns the largest size."""
    parts: list[list[int]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for i in sorted(range(len(slots)), key=lambda i: -sizes[i]):
        least = loads.index(min(loads))
        parts[least].append(i)
        loads[least] += sizes[i]
    return [[slots[i] for i in sorted(part)] for part in parts if part], max(loads)

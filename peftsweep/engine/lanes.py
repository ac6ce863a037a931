"""Slots side by side on a CPU's cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from peftsweep.engine.slot import Slot

MOST = 4  # lanes: Python itself is in one of them at a time

T = TypeVar("T")


class Lanes:
    """Work on slots, dealt to a few threads, each with its share of the cores.

    A product over one slot's rows is too small to be worth dividing between cores: two lanes of one core each took four
    fifths of the time of one lane of two. Which lane a slot is in makes no difference to its numbers.

    Args:
        slots: at most so many are worked on at once.
    """

    def __init__(self, slots: int) -> None:
        cores = torch.get_num_threads()
        self.count = max(1, min(cores, slots, MOST))
        self.threads: ThreadPoolExecutor | None = None
        if self.count > 1:
            self.threads = ThreadPoolExecutor(self.count, "lane", torch.set_num_threads, (cores // self.count,))

    def __call__(
        self, work: Callable[[Sequence[Slot]], dict[int, T]], slots: Sequence[Slot], sizes: Sequence[int]
    ) -> dict[int, T]:
        """What `work` makes of the slots, by slot.

        Args:
            sizes: how much work each slot is, in any unit.
        """
        if self.threads is None or len(slots) < self.count:
            return work(slots)
        found: dict[int, T] = {}
        for part in self.threads.map(work, dealt(slots, sizes, self.count)):
            found |= part
        return found

    def close(self) -> None:
        if self.threads is not None:
            self.threads.shutdown()


def dealt(slots: Sequence[Slot], sizes: Sequence[int], lanes: int) -> list[list[Slot]]:
    """The slots in as many parts of about the same size, each in the slots' own order."""
    parts: list[list[int]] = [[] for _ in range(lanes)]
    loads = [0] * lanes
    for i in sorted(range(len(slots)), key=lambda i: -sizes[i]):
        least = loads.index(min(loads))
        parts[least].append(i)
        loads[least] += sizes[i]
    return [[slots[i] for i in sorted(part)] for part in parts if part]

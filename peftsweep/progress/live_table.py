"""Which lines about running studies fit on a terminal? Slots, grouped by worker if there are several, and a summary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from peftsweep.progress import sweep_lines
from peftsweep.progress.display import SweepStatus, WorkerStatus

if TYPE_CHECKING:
    from peftsweep.engine import SlotStatus

COLUMNS = ("slot", "trial", "step", "loss", "", "best", "samples/s")  # "": the last score, by its name
_OTHER_LINES = 6  # lines of the screen that show neither slots, workers nor studies


def table(studies: Sequence[SweepStatus], height: int, score: str) -> list[str]:
    """The lines of the table: as many slots as the terminal has room for.

    Args:
        height: lines of the terminal.
        score: name of the score in the table.
    """
    room = max(1, height - _OTHER_LINES - len(studies))
    workers = sorted(
        ((worker, status.study) for status in studies for worker in status.workers), key=lambda each: each[0].number
    )
    if len(workers) <= 1:
        return _one_worker(workers[0][0].slots if workers else (), room, score)
    return _several_workers(workers, room, score)


def _one_worker(slots: Sequence[SlotStatus], room: int, score: str) -> list[str]:
    shown = _occupied_first(slots)[:room]
    return [*_slot_lines(shown, score), *_more(len(slots) - len(shown), "slot")]


def _several_workers(workers: Sequence[tuple[WorkerStatus, str]], room: int, score: str) -> list[str]:
    """A line for each worker, and its slots below it. All workers get as many lines, if they have as many slots."""
    titles = _aligned([sweep_lines.worker_row(*each) for each in workers], str.ljust)
    most = room - len(workers)
    if most <= 0:
        hidden = [worker for worker, _ in workers[room:]]
        slots = f" with {sum(len(worker.slots) for worker in hidden):,} slots" if hidden else ""
        return [*titles[:room], *(f"{line}{slots}" for line in _more(len(hidden), "worker"))]
    queues = [_occupied_first(worker.slots)[:most] for worker, _ in workers]
    turns = sorted((place, at) for at, queue in enumerate(queues) for place in range(len(queue)))[:most]
    counts = [sum(at == each for _, each in turns) for at in range(len(workers))]
    lines = iter(_slot_lines(chain.from_iterable(queue[:n] for queue, n in zip(queues, counts, strict=True)), score))
    found = [next(lines)]
    for title, count in zip(titles, counts, strict=True):
        found += [title, *(next(lines) for _ in range(count))]
    return [*found, *_more(sum(len(worker.slots) for worker, _ in workers) - len(turns), "slot")]


def _occupied_first(slots: Iterable[SlotStatus]) -> list[SlotStatus]:
    return sorted(slots, key=lambda slot: (slot.trial is None, slot.slot))


def _slot_lines(slots: Iterable[SlotStatus], score: str) -> list[str]:
    """A line with the columns' names, and one for each slot."""
    return _aligned([tuple(name or score for name in COLUMNS), *map(sweep_lines.slot_row, slots)], str.rjust)


def _aligned(rows: Sequence[tuple[str, ...]], side: Callable[[str, int], str]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["   ".join(map(side, row, widths)) for row in rows]


def _more(count: int, what: str) -> list[str]:
    return [f"and {count:,} more {what}{'s' * (count > 1)}"] if count > 0 else []

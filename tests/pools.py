"""A pool of several workers in this process, which answer one after the other: a test sees the same each time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from peftsweep.engine import Evaluated, Event
from peftsweep.errors import WorkerError
from peftsweep.workers import Answer, Call, Failed, LocalWorker, Lost

Dies = Callable[[int, Sequence[Event]], str | None]


def never(worker: int, events: Sequence[Event]) -> None:
    return None


def at(moment: int, then: Callable[[], str | None]) -> Dies:
    """Do something once, as the n-th evaluations of all are sent."""
    number = count(1)

    def dies(worker: int, events: Sequence[Event]) -> str | None:
        now = any(isinstance(event, Evaluated) for event in events)
        return then() if now and next(number) == moment else None

    return dies


class TurnsPool:
    """
    Args:
        workers: their number.
        dies: called with a worker and the events that it is about to send. If it gives a reason, the worker is lost,
            and so are the events.
        replaced: whether a new worker takes the place of a lost one.
        nodes: names of the machines, which have a worker in turn.
        struck: called with each call before it is done. If it gives a reason, the worker is lost.

    Attributes:
        loads: number of times that a base was loaded.
    """

    def __init__(
        self,
        workers: int,
        dies: Dies = never,
        *,
        replaced: bool = True,
        nodes: Sequence[str] = ("here", "there"),
        struck: Callable[[Call, tuple[Any, ...]], str | None] = lambda name, arguments: None,
    ) -> None:
        self.dies, self.replaced, self.nodes, self.struck = dies, replaced, nodes, struck
        self.loads = 0
        self.numbers = count()
        self.workers: dict[int, LocalWorker | None] = {next(self.numbers): None for _ in range(workers)}
        self.calls: deque[tuple[int, Call, tuple[Any, ...]]] = deque()

    def size(self) -> int:
        return len(self.workers)

    def free(self) -> Sequence[int]:
        called = {worker for worker, _, _ in self.calls}
        return [number for number, worker in self.workers.items() if worker is None and number not in called]

    def node(self, worker: int) -> str | None:
        return self.nodes[worker % len(self.nodes)]

    def call(self, worker: int, name: Call, *arguments: Any) -> None:
        self.calls.append((worker, name, arguments))

    def wait(self, seconds: float) -> Sequence[Answer | Failed | Lost]:
        if not self.workers:
            raise WorkerError("all workers are gone")
        number, name, arguments = self.calls.popleft()
        self.loads += name == "load"
        if reason := self.struck(name, arguments):
            self._lose(number)
            return [Lost(number, reason)]
        try:
            value = self._answer(number, name, arguments)
        except Exception as error:
            return [Failed(number, error)]
        if name == "advance" and (reason := self.dies(number, value)):
            self._lose(number)
            return [Lost(number, reason)]
        return [Answer(number, value)]

    def _answer(self, number: int, name: Call, arguments: tuple[Any, ...]) -> Any:
        if name == "load":
            self.workers[number] = LocalWorker(*arguments)
            return self._worker(number).load()
        if name == "close":
            worker, self.workers[number] = self._worker(number), None
            return worker.close()
        return getattr(self._worker(number), name)(*arguments)

    def _worker(self, number: int) -> LocalWorker:
        worker = self.workers[number]
        assert worker is not None
        return worker

    def _lose(self, number: int) -> None:
        if (worker := self.workers.pop(number)) is not None:
            worker.close()  # this process still has its memory
        if self.replaced:
            self.workers[next(self.numbers)] = None

    def shutdown(self) -> None:
        for worker in filter(None, self.workers.values()):
            with suppress(Exception):
                worker.close()

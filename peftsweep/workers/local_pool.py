"""What is a pool of one worker? Its calls are done in this process, when the sweep waits for the answer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from peftsweep.workers.pool import Answer, Call, Failed, Lost
from peftsweep.workers.worker import LocalWorker, StartWorker, Usage, Worker, WorkerSpec


class LocalPool:
    """
    Args:
        start: starts the worker when a study is loaded.
    """

    def __init__(self, start: StartWorker = LocalWorker) -> None:
        self._start = start
        self._worker: Worker | None = None
        self._next: tuple[Call, tuple[Any, ...]] | None = None

    def size(self) -> int:
        return 1

    def free(self) -> Sequence[int]:
        return [0] if self._worker is None and self._next is None else []

    def node(self, worker: int) -> str | None:
        return None

    def call(self, worker: int, name: Call, *arguments: Any) -> None:
        self._next = name, arguments

    def wait(self, seconds: float) -> Sequence[Answer | Failed | Lost]:
        assert self._next is not None
        (name, arguments), self._next = self._next, None
        try:
            return [Answer(0, self._answer(name, arguments))]
        except Exception as error:
            return [Failed(0, error)]

    def _answer(self, name: Call, arguments: tuple[Any, ...]) -> Any:
        if name == "load":
            spec: WorkerSpec = arguments[0]
            self._worker = self._start(spec)
            return self._worker.load()
        if name == "close":
            worker, self._worker = self._worker, None
            return Usage({}, None) if worker is None else worker.close()  # None: it could not be started
        return getattr(self._worker, name)(*arguments)

    def shutdown(self) -> None:
        if self._worker is not None:
            with suppress(Exception):  # it must not hide the error that ended the sweep
                self._worker.close()
            self._worker = None

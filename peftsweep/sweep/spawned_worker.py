"""How does a worker run in a separate process? Each call is sent to it over a pipe."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from peftsweep.engine import Command, Event
from peftsweep.methods import METHODS, Method, register
from peftsweep.models import BaseInfo
from peftsweep.sweep.worker import LocalWorker, PackInfo, Usage, WorkerSpec
from peftsweep.system.signals import ignore_interrupts


class SpawnedWorker:
    """
    Args:
        spec: is sent to the new process, which loads the base itself. The study's method is sent with it, since the
            new process has registered no method of one's own.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        arguments = theirs, METHODS[spec.config.method], spec
        self.process = context.Process(target=_serve, args=arguments, name="worker", daemon=True)
        self.process.start()
        theirs.close()

    def load(self) -> BaseInfo:
        return self._call("load")  # type: ignore[no-any-return]

    def build(self) -> PackInfo:
        return self._call("build")  # type: ignore[no-any-return]

    def advance(self, commands: Sequence[Command]) -> list[Event]:
        return self._call("advance", commands)  # type: ignore[no-any-return]

    def close(self) -> Usage:
        try:
            return self._call("close")  # type: ignore[no-any-return]
        finally:
            self.pipe.close()
            self.process.join()

    def _call(self, name: str, *arguments: Any) -> Any:
        """
        Raises:
            Exception: the worker raised it.
            EOFError: the worker's process died.
        """
        self.pipe.send((name, arguments))
        raised, value = self.pipe.recv()
        if raised:
            raise value
        return value


def _serve(pipe: Connection, method: type[Method], spec: WorkerSpec) -> None:
    """Answer calls until the pipe is closed."""
    ignore_interrupts()  # a terminal sends them to both processes; the study decides when to stop
    register(method)
    worker = LocalWorker(spec)
    with suppress(EOFError):  # the study's process died or closed the pipe
        while True:
            name, arguments = pipe.recv()
            try:
                answer = False, getattr(worker, name)(*arguments)
            except Exception as error:
                answer = True, error
            pipe.send(answer)

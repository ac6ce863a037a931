"""How does a worker run in a separate process? Each call is sent to it over a pipe."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

from peftsweep.engine import Command, Event
from peftsweep.errors import WorkerError
from peftsweep.methods import METHODS, Method, register
from peftsweep.models import BaseInfo
from peftsweep.system.signals import PATIENCE, held_back
from peftsweep.workers.pickled import check_importable, dumped
from peftsweep.workers.worker import LocalWorker, PackInfo, Usage, WorkerSpec


class SpawnedWorker:
    """
    Args:
        spec: is sent to the new process, which loads the base itself. The study's method is sent with it, since the
            new process has registered no method of one's own.

    Raises:
        UsageError: the study's method cannot be sent to another process.

    Attributes:
        ready: whether the process waits for a call. It does not after a call that a signal interrupted: it is still at
            work, and its answer must not be taken for that to the next call.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        method = METHODS[spec.config.method]
        check_importable(method, in_script=True)
        context = multiprocessing.get_context("spawn")
        self.pipe, self._theirs = context.Pipe()
        arguments = self._theirs, method, spec
        self.process = context.Process(target=_serve, args=arguments, name="worker", daemon=True)
        self.ready = False

    def load(self) -> BaseInfo:
        resource_tracker.ensure_running()  # otherwise start() does it, and lets signals through
        with held_back():  # a terminal sends signals to both processes; the study decides when to stop
            self.process.start()
        self._theirs.close()
        return self._call("load")  # type: ignore[no-any-return]

    def build(self, trials: int) -> PackInfo:
        return self._call("build", trials)  # type: ignore[no-any-return]

    def advance(self, commands: Sequence[Command]) -> list[Event]:
        return self._call("advance", commands)  # type: ignore[no-any-return]

    def close(self) -> Usage:
        """End the process. What it used is unknown if it died or is still at work."""
        usage = Usage({}, None)
        try:
            if self.ready:
                with suppress(WorkerError):  # nothing is lost: all events have arrived
                    usage = self._call("close")
            return usage
        finally:
            self.pipe.close()
            if self.ready:
                self.process.join(PATIENCE)
            if self.process.is_alive():
                self.process.kill()
                self.process.join()

    def _call(self, name: str, *arguments: Any) -> Any:
        """
        Raises:
            WorkerError: the process died.
            BaseException: the worker raised it. Its traceback is added as a note.
        """
        self.ready = False
        try:
            self.pipe.send((name, arguments))
            value, error, where = self.pipe.recv()
        except (EOFError, ConnectionError) as lost:
            raise self._died() from lost
        self.ready = True
        if error is not None:
            error.add_note(where)
            raise error
        return value

    def _died(self) -> WorkerError:
        self.process.join(PATIENCE)
        code = self.process.exitcode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit status {code}"
        hint = " (often because memory ran out)" if code == -9 else ""
        return WorkerError(
            f"the worker's process {self.process.pid} {how}{hint}; finished trials are kept: run the same command "
            f"again to continue"
        )


def _serve(pipe: Connection, method: type[Method], spec: WorkerSpec) -> None:
    """Answer calls until the pipe is closed. An answer is a value, or None, an error and its traceback."""
    register(method)
    worker: LocalWorker | None = None
    with suppress(EOFError, ConnectionError):  # the study's process died or closed the pipe
        while True:
            name, arguments = pipe.recv()
            try:
                worker = worker or LocalWorker(spec)
                pipe.send((getattr(worker, name)(*arguments), None, ""))
            except ConnectionError:
                raise
            except BaseException as error:  # tokenizers panics with errors that are not Exceptions
                pipe.send((None, _sendable(error), f"In the worker's process:\n{traceback.format_exc()}"))


def _sendable(error: BaseException) -> BaseException:
    """The error, or its text if it cannot be pickled."""
    try:
        ForkingPickler.loads(dumped(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error

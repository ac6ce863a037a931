"""Ray as a test plays it: nodes that come and go, and workers that answer when told to. The broker is the real one.

Real clusters take half a minute to start. tests/test_ray_faults.py has them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import Empty
from threading import Thread, Timer
from typing import Any

import pytest
import ray

from peftsweep.workers.ray_broker import Broker


class Worker:
    """An actor. It arrives once a node has room, and says hello.

    Attributes:
        progress: gives the number of passes that it tells when asked.
    """

    def __init__(self, cluster: Cluster, options: dict[str, Any]) -> None:
        self.cluster, self.options = cluster, options
        self.arrival = Future[Any]()
        self.node, self.killed = "", False
        self.progress: Callable[[], int] = int

    def settle(self) -> None:
        """Take a place on a node that has one, if it still waits for it."""
        if not self.node and (node := self.cluster.room(self.options)) is not None:
            self.node = node
            self.arrival.set_result(("arrived", (None, node)))

    def __getattr__(self, name: str) -> Any:
        return Method(getattr(self, f"_{name}"))

    def _arrive(self) -> Future[Any]:
        self.settle()
        return self.arrival

    def _hello(self, *arguments: Any) -> Future[Any]:
        return done(self.cluster.greetings.get(self.node, ("hello", self.node)))

    def _call(self, *arguments: Any) -> Future[Any]:
        if self.node in self.cluster.deadly:
            return done(("lost", "it died"))
        answer = Future[Any]()
        if self.cluster.returned is not None:
            Timer(0.1, answer.set_result, [("answer", self.cluster.returned)]).start()
        return answer

    def _passes(self) -> Future[Any]:
        return done(self.progress())


class Method:
    def __init__(self, function: Callable[..., Future[Any]]) -> None:
        self.function = function

    def remote(self, *arguments: Any) -> Reference:
        return Reference(self.function(*arguments))


class Reference:
    def __init__(self, answer: Future[Any]) -> None:
        self.answer = answer

    def future(self) -> Future[Any]:
        return self.answer


def done(value: object) -> Future[Any]:
    future = Future[Any]()
    future.set_result(value)
    return future


class Cluster:
    """
    Attributes:
        nodes: their resources.
        greetings: what workers of a node say instead of hello.
        deadly: nodes on which workers die in their first call.
        returned: by each call, after a tenth of a second; None for never.
        workers: all that were made, in order.
    """

    def __init__(self, patch: pytest.MonkeyPatch, **nodes: dict[str, float]) -> None:
        self.nodes, self.greetings = dict(nodes), dict[str, tuple[str, str]]()
        self.deadly, self.workers = set[str](), list[Worker]()
        self.returned: bytes | None = None
        patch.setattr(ray, "nodes", self._nodes)
        patch.setattr(ray, "remote", lambda **options: lambda kind: Kind(self, options))
        patch.setattr(ray, "kill", self._kill)
        patch.setattr(ray, "put", lambda value: value)

    def _nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": node, "Alive": True, "Resources": found} for node, found in self.nodes.items()]

    def _kill(self, worker: Worker) -> None:
        worker.killed = True
        self.settle()

    def settle(self) -> None:
        for worker in self.workers:
            worker.settle()

    def room(self, options: dict[str, Any]) -> str | None:
        """A node that has room for a worker."""
        refused = options.get("label_selector", {}).get("ray.io/node-id", "")
        for node, found in self.nodes.items():
            there = [worker for worker in self.workers if worker.node == node and not worker.killed]
            taken = {key: sum(worker.options[f"num_{key.lower()}s"] for worker in there) for key in ("CPU", "GPU")}
            free = {key: found.get(key, 0) - taken[key] for key in taken}
            if node not in refused and all(free[key] >= options[f"num_{key.lower()}s"] for key in free):
                return node
        return None

    def add(self, **nodes: dict[str, float]) -> None:
        self.nodes |= nodes
        self.settle()

    @contextmanager
    def broker(self, workers: int | None, timeout: float = 60.0) -> Iterator[Driver]:
        """The broker, in a thread of its own, and the driver's side of its pipe."""
        ours, theirs = Pipe()
        limits = {"advance": timeout}
        broker = Broker(theirs, workers=workers, local=False, limits=limits, version="1", most_threads=None)

        def run() -> None:
            with suppress(BrokenPipeError):  # as `main` does
                broker.run()

        thread = Thread(target=run)
        thread.start()
        try:
            yield Driver(ours)
        finally:
            with suppress(Empty):
                while True:
                    broker.events.get_nowait()
            ours.close()
            thread.join(60)
            assert not thread.is_alive()


class Kind:
    def __init__(self, cluster: Cluster, options: dict[str, Any]) -> None:
        self.cluster, self.options = cluster, options

    def remote(self) -> Worker:
        self.cluster.workers.append(Worker(self.cluster, self.options))
        return self.cluster.workers[-1]


class Driver:
    """The sweep's side of the pipe."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def call(self, worker: int, name: str) -> None:
        self.pipe.send(("call", (worker, name, [])))

    def told(self, kind: str) -> tuple[int, Any]:
        """The number and value of the next message of a kind."""
        end = time.monotonic() + 30
        while self.pipe.poll(max(0, end - time.monotonic())):
            found, number, value = self.pipe.recv()
            if found == kind:
                return number, value
        raise AssertionError(f"the broker has told of no {kind}")

    def silent(self, kind: str, seconds: float) -> bool:
        """Whether no message of a kind comes for some time."""
        end = time.monotonic() + seconds
        while self.pipe.poll(max(0, end - time.monotonic())):
            if self.pipe.recv()[0] == kind:
                return False
        return True

"""Who speaks with Ray? A process of its own, the broker: it makes an actor for each worker, and passes messages between
them and the sweep's process.

So a sweep outlives whatever happens to Ray, and Ray sees neither the sweep's passwords nor its signals. The sweep's
process starts this file by its path, since importing its package would load torch, which the broker does not need. It
ends, and its local cluster with it, when the pipe to the sweep's process closes.
"""

from __future__ import annotations

import itertools
import math
import os
import platform
import sys
import time
from concurrent.futures import Future
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import ray

from peftsweep.system.ray_connection import joined
from peftsweep.system.ray_errors import is_raised, why_broken, why_lost
from peftsweep.system.signals import end_at_once
from peftsweep.system.worker_places import Place
from peftsweep.system.worker_resources import Resources, count

LOSSES = 3  # workers in a row that may be lost without an evaluation before none takes their place
TICK = 1.0  # seconds between two looks at the clock and at the cluster's resources
STUCK = 3 * TICK  # seconds for one event after which workers get as many more to answer
WAITING = 20.0  # seconds without a free place in the cluster after which the user is told, and the sweep counts on none


class SweepWorker:
    """An actor, as Ray holds it. Its class travels by value, so that it can say what is wrong with peftsweep there."""

    worker: Any = None

    def arrive(self) -> tuple[str, tuple[int, str]]:
        """Returns "arrived", and the ids of the process and the node."""
        return "arrived", (os.getpid(), ray.get_runtime_context().get_node_id())

    def hello(self, wanted: dict[str, str], threads: int, folder: str) -> tuple[str, str]:
        """Returns "hello" and the node's name, or "refused" and why."""
        name = platform.node()
        try:
            here = self.versions(import_module("peftsweep").__version__)
            if others := [each for each in wanted if here[each] != wanted[each]]:
                there, ours = (" and ".join(f"{each} {of[each]}" for each in others) for of in (here, wanted))
                return "refused", f"{name} has {there}, and this process has {ours}"
            with import_module("peftsweep.system.garbage").collected_seldom():
                self.worker = import_module("peftsweep.workers.ray_actor").RayWorker(name, threads, folder)
        except Exception as error:  # such as OSError, of a library that lacks another
            reason = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
            return "refused", f"{name} has no peftsweep {wanted['peftsweep']} that works: {reason}"
        return "hello", name

    @staticmethod
    def versions(peftsweep: str) -> dict[str, str]:
        """What must be the same everywhere."""
        return {"Python": ".".join(platform.python_version_tuple()[:2]), "Ray": ray.__version__, "peftsweep": peftsweep}

    def call(self, name: str, *arguments: bytes) -> tuple[str, Any]:
        """See `RayWorker.call`."""
        return self.worker.call(name, *arguments)  # type: ignore[no-any-return]

    @ray.method(concurrency_group="watch")
    def passes(self) -> int:
        """See `RayWorker.passes`. A thread of its own answers while a call is under way."""
        return 0 if self.worker is None else self.worker.passes()


class Broker:
    """
    Args:
        driver: the sweep's process.
        workers: number of workers; None for one on each GPU, or one on a CPU.
        local: whether the cluster is this machine, so that no other can join.
        limits: seconds in which a call must be answered, by its name.
        version: peftsweep's in the sweep's process.
        most_threads: of each worker; None for its share of the cores.
    """

    def __init__(
        self,
        driver: Connection,
        *,
        workers: int | None,
        local: bool,
        limits: dict[str, float],
        version: str,
        most_threads: int | None,
    ) -> None:
        self.driver, self.local, self.limits, self.most_threads = driver, local, limits, most_threads
        self.versions = SweepWorker.versions(version)
        self.grows = workers is None and not local
        self.numbers = itertools.count()
        self.places: dict[int, Place] = {}
        self.kept: dict[str, Any] = {}  # what several workers get, in Ray's object store
        self.events: SimpleQueue[tuple[str, Any, Any]] = SimpleQueue()
        self.last_reason = ""
        self.refused: set[str] = set()  # nodes with other versions
        self.given_up: list[str] = []  # nodes of the places that stay empty
        self.patient_until = time.monotonic() + WAITING
        gpus = self.gpus()
        self.wanted = max(1, gpus) if workers is None else workers
        if gpus and self.wanted > gpus:
            have = f"{gpus} GPU{'s' * (gpus > 1)}"
            self.note(f"workers: {self.wanted} were asked for; the cluster has {have}, one for each worker")
            self.wanted = gpus if local else self.wanted  # the others wait for nodes that join
        for _ in range(self.wanted):
            self.start()
        self.told = self.size()
        self.driver.send(("ready", self.told, ""))
        Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                self.events.put(("driver", *self.driver.recv()))
        self.events.put(("end", None, None))

    def run(self) -> None:
        """Pass messages until the sweep's process closes the pipe, or no worker is left."""
        before = looked = time.monotonic()
        while self.places:
            with suppress(Empty):
                match self.events.get(timeout=TICK):
                    case "end", _, _:
                        return
                    case "driver", "keep", (key, content):
                        self.kept[key] = ray.put(content)
                        self.driver.send(("kept", 0, key))
                    case "driver", "call", (number, name, arguments):
                        self.ask(number, name, *(self.kept.get(each, each) for each in arguments))
                    case "done", number, future:
                        self.take(number, future)
            now = time.monotonic()
            if now > before + STUCK:  # nobody looked at the clock: the driver was slow, or the machine slept
                for place in self.places.values():
                    place.since += now - before
            before = now
            if now > looked + TICK:
                self.look_around()
                self.driver.send(("alive", 0, None))  # from here, so that it stops when a call of Ray never returns
                looked = now
        self.driver.send(("over", 0, self.last_reason))

    def look_around(self) -> None:
        """End workers that hang, and start some on GPUs that have joined."""
        now = time.monotonic()
        for number, place in list(self.places.items()):
            if place.hangs(now):
                self.lose(number, f"it reported nothing for {place.time_limit:.0f} s")
            elif place.is_quiet(now):
                place.asked = True
                place.actor.passes.remote().future().add_done_callback(place.told)
        living = {"", *_nodes()}  # a node that has left takes its empty places with it
        if self.grows and self.gpus() > self.taken() + sum(node in living for node in self.given_up):
            self.start()
        if (size := self.size()) != self.told:
            self.told = size
            self.driver.send(("size", size, ""))
        if now > self.patient_until:
            self.patient_until = math.inf
            if waiting := [place.needs for place in self.places.values() if place.call == "arrive"]:
                self.note(f"workers: {len(waiting)} of {len(self.places)} wait for a node with {waiting[0]} free")

    def nodes(self) -> list[dict[str, float]]:
        """The resources of each living node that workers may use."""
        return [resources for node, resources in _nodes().items() if node not in self.refused]

    def gpus(self) -> int:
        return count(self.nodes(), "GPU")

    def size(self) -> int:
        """Number of workers that are there or about to come: not those that wait for a node to join."""
        late = time.monotonic() - WAITING
        waiting = sum(place.call == "arrive" and place.since < late for place in self.places.values())
        return len(self.places) - max(waiting, self.taken() - self.gpus())

    def taken(self) -> int:
        """Number of GPUs that have a worker or wait for it."""
        return sum(place.needs.gpus for place in self.places.values())

    def note(self, text: str) -> None:
        self.driver.send(("note", 0, text))

    def start(self, losses: int = 0) -> int:
        """Make a worker, and return its number. Ray starts it as soon as a node has room."""
        number, needs = next(self.numbers), Resources.of(self.nodes(), self.wanted, self.most_threads)
        others = sorted(self.refused & _nodes().keys())
        options: dict[str, Any] = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "max_restarts": 0}
        options |= {"scheduling_strategy": "SPREAD", "concurrency_groups": {"watch": 1}}
        options["label_selector"] = {"ray.io/node-id": f"!in({','.join(others)})"} if others else {}
        actor = ray.remote(**options)(SweepWorker).remote()
        place = self.places[number] = Place(actor, needs, losses, self.limits)
        self._await(number, place.actor.arrive.remote())
        return number

    def ask(self, number: int, name: str, *arguments: Any) -> None:
        if number in self.places:  # otherwise the driver will read that it is lost
            place = self.places[number]
            place.begin(name)
            self._await(number, place.actor.call.remote(name, *arguments))

    def _await(self, number: int, reference: Any) -> None:
        place = self.places[number]

        def here(future: Future[Any]) -> None:  # at once, in a thread of Ray
            place.answered()
            self.events.put(("done", number, future))

        reference.future().add_done_callback(here)

    def take(self, number: int, future: Future[Any]) -> None:
        """Handle a worker's answer."""
        if number not in self.places:  # it has been ended
            return
        error = future.exception()
        if isinstance(error, ConnectionError) and not is_raised(error):  # the worker may live, but nobody reaches it
            raise error
        answer: tuple[str, Any] = future.result() if error is None else ("lost", why_lost(error))
        kind, value = answer
        place = self.places[number]
        if kind == "arrived" and not place.needs.gpus and self.gpus():  # it waited, and GPUs joined
            self.end(number)
            self.start(place.losses)
        elif kind == "arrived":
            place.process, place.node = value
            place.begin("hello")
            self._await(number, place.actor.hello.remote(self.versions, place.needs.threads, str(Path.cwd())))
        elif kind == "refused":
            self.refuse(number, value)
        elif kind == "lost":
            self.lose(number, value)
        else:
            if kind == "progress":
                kind, place.losses = "answer", 0
            place.call = "nothing"
            self.driver.send((kind, number, value))

    def refuse(self, number: int, reason: str) -> None:
        """A worker's node has other versions. If others have room, a worker starts there, or waits for it."""
        place = self.places[number]
        if place.node not in self.refused:
            self.note(f"worker {number} was refused: {reason}")
        self.refused.add(place.node)
        self.last_reason = reason
        self.end(number)
        if count(self.nodes(), "GPU" if place.needs.gpus else "CPU") > (self.taken() if self.grows else 0):
            self.start(place.losses)

    def lose(self, number: int, reason: str) -> None:
        """A worker is gone. Another takes its place, unless too many are lost in a row."""
        node, losses = self.places[number].node, self.places[number].losses + 1
        self.last_reason = reason
        self.end(number)
        self.driver.send(("lost", number, reason))
        if losses < LOSSES:
            self.note(f"worker {self.start(losses)} takes the place of worker {number}")
        else:
            self.given_up.append(node)
            self.note(f"workers: {LOSSES} were lost in a row, so none takes the place of worker {number}: {reason}")

    def end(self, number: int) -> None:
        """End a worker, dead or alive."""
        with suppress(Exception):
            ray.kill(self.places[number].actor)
        del self.places[number]

    def close(self) -> None:
        """End all workers. Those of this machine are gone when this returns."""
        processes = [place.process for place in self.places.values() if place.process is not None]
        for number in list(self.places):
            self.end(number)
        for process in processes if self.local else ():
            end_at_once(process)


def _nodes() -> dict[str, dict[str, float]]:
    """The resources of each living node, by its id."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}


def main() -> None:
    with Connection(int(sys.argv[1])) as driver, suppress(BrokenPipeError):
        options = driver.recv()
        address, workers = options.pop("address"), options["workers"]
        try:
            cores = max(len(os.sched_getaffinity(0)), workers or 1)
            with joined(address, cores):
                broker = Broker(driver, local=address is None, **options)
                try:
                    broker.run()
                except ConnectionError:  # of ray://. Disconnecting takes long, so the sweep's process is told first
                    driver.send(("broken", 0, "the connection to its client server is lost"))
                finally:
                    broker.close()
        except (Exception, SystemExit) as error:
            driver.send(("broken", 0, why_broken(error)))


if __name__ == "__main__":
    main()

"""Whom does the broker take for dead, and who takes the place? Ray is played: see tests/ray_in_memory.py."""

from __future__ import annotations

import time
from itertools import count
from threading import Event, Thread

import pytest
import ray

from peftsweep.system.ray_connection import TRIES, connected
from peftsweep.system.worker_places import Place
from peftsweep.system.worker_resources import Resources
from peftsweep.workers import ray_broker
from tests.ray_in_memory import Cluster

LIMIT = 0.4  # seconds
GPU = {"CPU": 1.0, "GPU": 1.0}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_broker, "TICK", 0.05)


def test_a_worker_that_makes_progress_in_a_long_evaluation_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, here={"CPU": 1.0})
    with cluster.broker(1, timeout=LIMIT) as driver:
        driver.told("hello")
        cluster.workers[0].progress = count(1).__next__
        driver.call(0, "advance")
        assert driver.silent("lost", 4 * LIMIT)
        cluster.workers[0].progress = lambda: 7
        assert driver.told("lost") == (0, "it reported nothing for 0 s") and cluster.workers[0].killed


def test_a_worker_that_hangs_is_found_however_many_messages_come(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, stop = Cluster(monkeypatch, here={"CPU": 1.0}), Event()
    monkeypatch.setattr(ray, "put", lambda content: time.sleep(0.01))  # so that messages come faster than they are read
    with cluster.broker(1, timeout=LIMIT) as driver:
        driver.told("hello")
        driver.call(0, "advance")

        def flood() -> None:
            while not stop.wait(0.002):
                driver.pipe.send(("keep", ("key", b"")))

        flooding = Thread(target=flood)
        flooding.start()
        try:
            assert driver.told("lost")[0] == 0
        finally:
            stop.set()
            flooding.join()


def test_workers_that_answer_in_time_outlive_a_sweep_that_is_slow_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, here={"CPU": 2.0})
    cluster.returned = bytes(1_000_000)  # one fills the pipe
    with cluster.broker(2, timeout=LIMIT) as driver:
        assert {driver.told("hello")[0], driver.told("hello")[0]} == {0, 1}
        for worker in (0, 1):
            driver.call(worker, "advance")
        time.sleep(4 * LIMIT)
        assert {driver.told("answer")[0], driver.told("answer")[0]} == {0, 1}


def test_the_broker_gives_no_sign_of_life_while_a_call_of_ray_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, go_on = Cluster(monkeypatch, here={"CPU": 1.0}), Event()
    monkeypatch.setattr(ray, "put", lambda content: go_on.wait(60))
    with cluster.broker(1) as driver:
        driver.told("alive")
        driver.pipe.send(("keep", ("spec 0", b"")))
        assert any(driver.silent("alive", 0.5) for _ in range(20))
        go_on.set()
        assert driver.told("kept") == (0, "spec 0")
        driver.told("alive")


def test_an_answer_that_has_come_in_time_may_wait_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(None, Resources(0, 1, 1), 0, {"advance": 1.0})
    place.begin("advance")
    later = time.monotonic() + 2
    assert place.hangs(later)
    place.answered()
    assert not place.hangs(later)


def test_a_node_that_was_given_up_and_leaves_frees_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, broken=GPU, well=GPU)
    cluster.deadly = {"broken"}
    with cluster.broker(None) as driver:
        for worker in (0, 2, 3)[: ray_broker.LOSSES]:
            while driver.told("hello") != (worker, "broken"):
                pass
            driver.call(worker, "load")
        assert "none takes the place" in driver.told("note")[1]
        del cluster.nodes["broken"]
        cluster.add(other=GPU)
        assert driver.told("hello") == (4, "other")


def test_a_worker_of_a_refused_node_starts_again_on_another(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, other=GPU, same=GPU)
    cluster.greetings["other"] = "refused", "other has Python 3.9"
    with cluster.broker(1) as driver:
        assert "other has Python 3.9" in driver.told("note")[1]
        assert driver.told("hello") == (1, "same")


def test_a_worker_that_finds_no_place_is_not_counted_on_until_a_node_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_broker, "WAITING", 0.2)
    cluster = Cluster(monkeypatch, here={"CPU": 1.0})
    with cluster.broker(2) as driver:
        assert driver.told("ready")[0] == 2
        assert driver.told("size")[0] == 1
        assert driver.told("note")[1] == "workers: 1 of 2 wait for a node with 1 CPU free"
        cluster.add(there={"CPU": 1.0})
        assert driver.told("size")[0] == 2


def test_a_client_server_that_does_not_start_is_tried_again() -> None:
    failed = (
        "Initialization failure from server: RuntimeError: Starting Ray client server failed. See ray_client_server"
    )
    calls = count(1)

    def connect(fails: int, why: str) -> int:
        if (call := next(calls)) <= fails:
            raise ConnectionAbortedError(why)
        return call

    assert connected(lambda: connect(TRIES - 1, failed)) == TRIES
    calls = count(1)
    with pytest.raises(ConnectionAbortedError, match="Starting Ray client server failed"):
        connected(lambda: connect(TRIES, failed))
    calls = count(1)
    with pytest.raises(ConnectionAbortedError, match="no route"):
        connected(lambda: connect(1, "no route"))
    assert next(calls) == 2

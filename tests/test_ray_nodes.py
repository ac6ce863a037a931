"""Which nodes of a cluster get workers, and how many threads do these have?"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from peftsweep.workers import Failed, Lost
from peftsweep.workers.ray_pool import RayPool
from tests.ray_calls import Fails, Result, comes
from tests.ray_cluster import RayCluster, ray_cluster
from tests.studies import ROOT

pytestmark = pytest.mark.timeout(600)  # torch is loaded by several new processes


@pytest.fixture(scope="module")
def shared() -> Iterator[RayCluster]:
    with ray_cluster() as found:
        yield found


@pytest.fixture
def cluster(shared: RayCluster) -> Iterator[RayCluster]:
    """A cluster without nodes."""
    with shared.as_before():
        yield shared


def test_a_worker_with_a_gpu_computes_on_its_share_of_the_cores(
    cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    cluster.add(gpus=1, cpus=3)
    pool = RayPool(workers="auto", address=cluster.address, timeout=60.0, note=print)
    try:
        comes(pool)
        pool.call(0, "load", Fails(Result(torch.get_num_threads)))
        (answer,) = comes(pool)
        assert isinstance(answer, Failed) and str(answer.error).endswith("KeyError: 3")
    finally:
        pool.shutdown()


def test_workers_without_a_gpu_are_not_counted_until_one_joins(cluster: RayCluster) -> None:
    cluster.add(gpus=1)
    lines: list[str] = []
    pool = RayPool(workers=3, address=cluster.address, timeout=60.0, note=lines.append)
    try:
        assert pool.size() == 1
        assert len([line for line in lines if "has 1 GPU, one" in line]) == 1
        cluster.add(gpus=1)
        while len(pool.free()) < 2:
            pool.wait(1.0)
        assert pool.size() == 2
    finally:
        pool.shutdown()


def test_a_worker_that_dies_is_not_replaced_on_a_node_that_was_refused(cluster: RayCluster, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import platform\nplatform.python_version_tuple = lambda: tuple('397')\n"
    )
    cluster.add(gpus=1, PYTHONPATH=f"{tmp_path}:{ROOT}")
    cluster.add(gpus=1)
    lines: list[str] = []
    pool = RayPool(workers="auto", address=cluster.address, timeout=60.0, note=lines.append)
    try:
        while not (pool.free() and any("Python 3.9" in line for line in lines)):  # one has come, and one was refused
            pool.wait(1.0)
        while len(processes := cluster.workers()) > 1:  # the refused one ends
            time.sleep(0.1)
        os.kill(processes[0], signal.SIGKILL)
        pool.call(pool.free()[0], "load", "a base")
        (lost,) = comes(pool)
        assert isinstance(lost, Lost) and comes(pool) == [] and len(pool.free()) == 1
        assert len([line for line in lines if "Python 3.9" in line]) == 1
    finally:
        pool.shutdown()

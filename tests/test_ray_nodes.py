"""Which nodes of a cluster get workers, and how many threads do these have?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from peftsweep.workers import Failed
from peftsweep.workers.ray_pool import RayPool
from tests.ray_calls import Fails, Result, comes
from tests.ray_cluster import RayCluster, ray_cluster

pytestmark = pytest.mark.timeout(600)  # torch is loaded by several new processes


@pytest.fixture(scope="module")
def shared() -> Iterator[RayCluster]:
    with ray_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: RayCluster) -> Iterator[RayCluster]:
    """The cluster, without nodes. What a test adds is removed after it."""
    yield shared
    for node in [*shared.nodes]:
        shared.remove(node)


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
        assert len(lines) == 1 and "has 1 GPU, one" in lines[0]
        cluster.add(gpus=1)
        while len(pool.free()) < 2:
            pool.wait(1.0)
        assert pool.size() == 2
    finally:
        pool.shutdown()

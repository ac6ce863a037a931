"""Workers train: each loads the base and trains a pack on it. A pool is what a sweep sees of all its workers."""

from __future__ import annotations

from peftsweep.workers.choosing import HANG, start_pool
from peftsweep.workers.local_pool import LocalPool
from peftsweep.workers.pool import Answer, Call, Failed, Lost, Pool
from peftsweep.workers.spawned_worker import SpawnedWorker
from peftsweep.workers.worker import LocalWorker, Memory, PackInfo, StartWorker, Usage, Worker, WorkerSpec

__all__ = [
    "HANG",
    "Answer",
    "Call",
    "Failed",
    "LocalPool",
    "LocalWorker",
    "Lost",
    "Memory",
    "PackInfo",
    "Pool",
    "SpawnedWorker",
    "StartWorker",
    "Usage",
    "Worker",
    "WorkerSpec",
    "start_pool",
]

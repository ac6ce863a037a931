"""Which pool does a sweep get? One worker is in this process; several, or those of a cluster, are Ray's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from peftsweep.workers.local_pool import LocalPool
from peftsweep.workers.pool import Pool
from peftsweep.workers.worker import LocalWorker, StartWorker

HANG = 600.0  # seconds without an event after which a worker is taken for dead


def start_pool(
    workers: int | Literal["auto"],
    address: str | None,
    timeout: float,
    note: Callable[[str], object],
    start: StartWorker = LocalWorker,
) -> Pool:
    """
    Args:
        workers: how many. "auto": one for each GPU; one on a CPU.
        address: of the Ray cluster to join; None for this machine alone.
        timeout: seconds without an event after which a worker of Ray is ended and replaced.
        note: called with lines for the user.
        start: starts the worker, if there is one and it is in this process.

    Raises:
        UsageError: Ray is needed and not installed.
        WorkerError: the cluster does not answer.
    """
    if address is None:
        gpus = torch.cuda.device_count()
        if workers == "auto":
            workers = max(1, gpus)
        elif gpus and workers > gpus:
            several = "s" * (gpus > 1)
            note(f"workers: {workers} were asked for; this machine has {gpus} GPU{several}, one for each worker")
            workers = gpus
        if workers == 1:
            return LocalPool(start)
    from peftsweep.workers.ray_pool import RayPool

    return RayPool(workers=workers, address=address, timeout=timeout, note=note)

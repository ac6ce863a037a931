"""How does the broker reach Ray? It joins a cluster, or starts one for this process alone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import ray

from peftsweep.system.ray_errors import named_versions
from peftsweep.system.temporary import TemporaryFolder

T = TypeVar("T")

STORE = 1 << 30  # bytes of the local cluster's object store; what does not fit goes to disk
SHORT = 36  # characters of a folder in which Ray can open its sockets: their paths have at most 107
TRIES = 3  # of a client server that does not start


def connected(connect: Callable[[], T]) -> T:
    """What `connect` returns. A client server's own process may fail to start, because two of a machine take the same
    port at the same time; it takes another one the next time.

    Raises:
        ConnectionError: it cannot be reached, or failed each time.
    """
    for _ in range(TRIES - 1):
        try:
            return connect()
        except ConnectionError as error:
            if "Starting Ray client server failed" not in str(error):
                raise
    return connect()


@contextmanager
def joined(address: str | None, cores: int) -> Iterator[None]:
    """A connection to a cluster, or to a local one for this process alone.

    Raises:
        Exception: the cluster does not answer, or runs another version of Ray or Python.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is not None:
        with named_versions(), connected(lambda: ray.init(address, **quiet)):
            yield
        return
    if len(tempfile.gettempdir()) > SHORT - 10:
        tempfile.tempdir = "/tmp"
    with TemporaryFolder() as folder:
        try:
            ray.init(
                "local",
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=STORE,
                _temp_dir=str(folder),
                **quiet,
            )
            yield
        finally:
            ray.shutdown()

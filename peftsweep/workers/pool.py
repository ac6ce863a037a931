"""How does a sweep speak to its workers? It sends calls, and takes the answers in the order in which they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Call = Literal["load", "build", "advance", "close"]  # see `Worker`


@dataclass(frozen=True)
class Answer:
    """What a worker's call returned."""

    worker: int
    value: Any


@dataclass(frozen=True)
class Failed:
    """A worker's call raised an error that ends its study. The worker itself lives, and waits to be closed."""

    worker: int
    error: Exception


@dataclass(frozen=True)
class Lost:
    """A worker is gone with all that it held: its process or machine died, or it did not answer for too long."""

    worker: int
    reason: str


class Pool(Protocol):
    """Workers, by number. Each has at most one call under way, and trains one study at a time."""

    def size(self) -> int:
        """Number of workers that the pool has or expects. It grows and shrinks."""

    def free(self) -> Sequence[int]:
        """Workers without a study. A worker that takes the place of a lost one has a new number."""

    def node(self, worker: int) -> str | None:
        """Name of the machine on which a worker runs; None for this process."""

    def call(self, worker: int, name: Call, *arguments: Any) -> None:
        """Send a call, and return at once. The first call for a study is `load`, with its `WorkerSpec`; the last is
        `close`, after which the worker is free."""

    def wait(self, seconds: float) -> Sequence[Answer | Failed | Lost]:
        """The answers that have come, after at most so many seconds. Empty if there are none yet.

        Raises:
            WorkerError: no worker is left, and none will come.
        """

    def shutdown(self) -> None:
        """End all workers."""

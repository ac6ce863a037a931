"""What does each worker of a cluster take from its node?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """What each worker takes from a node."""

    gpus: int
    cpus: int
    threads: int

    def __str__(self) -> str:
        cores = f"{self.cpus} CPU{'s' * (self.cpus > 1)}"
        return f"a GPU and {cores}" if self.gpus else cores

    @classmethod
    def of(cls, nodes: list[dict[str, float]], workers: int) -> Resources:
        """A GPU for each worker, with its share of the cores; or the largest share of the cores with which all workers
        find a place."""
        with_gpus = [node for node in nodes if node.get("GPU")]
        if with_gpus:
            return cls(1, 1, max(1, min(int(node.get("CPU", 1) // node["GPU"]) for node in with_gpus)))
        cores = [int(node.get("CPU", 0)) for node in nodes]
        fits = (n for n in range(max(cores, default=1), 1, -1) if sum(each // n for each in cores) >= workers)
        share = next(fits, 1)
        return cls(0, share, share)


def count(nodes: Iterable[dict[str, float]], resource: str) -> int:
    """How much of a resource nodes have together."""
    return int(sum(node.get(resource, 0) for node in nodes))

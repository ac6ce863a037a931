"""What does each worker of a cluster take from its node?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    def of(cls, nodes: list[dict[str, float]], workers: int, most_threads: int | None = None) -> Resources:
        """A GPU for each worker, with its share of the cores; or the largest share of the cores with which all workers
        find a place.

        Args:
            most_threads: see `allowed_threads`.
        """
        with_gpus = [node for node in nodes if node.get("GPU")]
        if with_gpus:
            threads = max(1, min(int(node.get("CPU", 1) // node["GPU"]) for node in with_gpus))
            return cls(1, 1, min(threads, most_threads or threads))
        cores = [int(node.get("CPU", 0)) for node in nodes]
        fits = (n for n in range(max(cores, default=1), 1, -1) if sum(each // n for each in cores) >= workers)
        share = next(fits, 1)
        return cls(0, share, min(share, most_threads or share))


def allowed_threads(variables: Mapping[str, str]) -> int | None:
    """How many threads the user allows each process. OpenMP takes a list, too: a number for each level of nesting.

    Example:
        >>> [allowed_threads({"OMP_NUM_THREADS": text}) for text in ("4", "4,2", "", "many", "0")]
        [4, 4, None, None, None]
    """
    first = variables.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return (int(first) or None) if first.isascii() and first.isdecimal() else None


def count(nodes: Iterable[dict[str, float]], resource: str) -> int:
    """How much of a resource nodes have together."""
    return int(sum(node.get(resource, 0) for node in nodes))

"""Which nodes cannot load a study's base? They train no more trials of it, and the other nodes go on."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Set

from peftsweep.errors import WorkerError

TRIES = 2  # workers in a row that a node may lose while they load; Ray replaces one more
ARRIVAL = 60.0  # seconds that a worker may take to come, if the pool expects one

Node = str | None  # its name; None: this process


class UnfitNodes:
    """
    Args:
        study: its name.
        warn: called with a line about each node, if others may load the base.
    """

    def __init__(self, study: str, warn: Callable[[str], object]) -> None:
        self._study, self._warn = study, warn
        self._losses: Counter[Node] = Counter()  # workers lost in a row before they could train
        self._errors: dict[Node, Exception] = {}
        self._by_losses: set[Node] = set()  # of these, nodes that only lost workers
        self._unsaid: list[Node] = []
        self._since = math.inf  # when nobody was left, first

    def __contains__(self, node: Node) -> bool:
        return node in self._errors

    def __bool__(self) -> bool:
        return bool(self._errors)

    def loaded(self, node: Node) -> None:
        """A worker can train there."""
        self._losses.pop(node, None)
        self._since = math.inf
        if node in self._by_losses:
            self._by_losses.remove(node)
            del self._errors[node]
            self._unsaid = [each for each in self._unsaid if each != node]

    def failed(self, node: Node, error: Exception) -> None:
        """The base could not be loaded there."""
        if node not in self._errors:
            self._errors[node] = error
            self._unsaid.append(node)

    def lost(self, node: Node, reason: str, *, trains: bool) -> None:
        """A worker was lost while it loaded. Once may be an accident.

        Args:
            trains: whether another worker trains the study there. Then the node is well, and maybe one of its GPUs is
                not, which is the pool's affair.
        """
        self._losses[node] += 1
        if self._losses[node] >= TRIES and not trains and node not in self._errors:
            self._by_losses.add(node)
            where = "" if node is None else f"{node}: "
            what = f"{TRIES} workers in a row were lost while they loaded {self._study}; the last: {reason}"
            self.failed(node, WorkerError(where + what))

    def tell(self) -> None:
        """Warn about each new one, because others go on."""
        for node in self._unsaid:
            self._warn(f"{self._errors[node]}; {node} trains no more trials of {self._study}")
        self._unsaid.clear()

    def left_alone(self, nodes: Set[Node], *, more: bool) -> Exception | None:
        """Call this only while no worker trains the study. Returns the error that ends it, once no node is left that
        may load the base.

        Args:
            nodes: those that have workers.
            more: whether the pool expects further workers.
        """
        now = time.monotonic()
        self._since = math.inf if nodes - self._errors.keys() else min(self._since, now)
        if self._since < math.inf and (not more or now >= self._since + ARRIVAL):
            return next(iter(self._errors.values()))
        self.tell()
        return None

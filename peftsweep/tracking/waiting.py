"""Which updates wait for a tracker? Points of one run that wait at the same time are one update."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from peftsweep.tracking.sink import Point


@dataclass
class Points:
    """An update: points of a run, to be written together.

    Attributes:
        written: how many of them need not be tried again.
    """

    key: str
    points: list[Point]
    written: int = 0


Update = Callable[[], None] | Points


class Waiting:
    """Updates in their order. Its length counts each point. For use by one thread at a time."""

    def __init__(self) -> None:
        self._updates: deque[Update] = deque()
        self._open: dict[str, Points] = {}  # by run: the update that further points join
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, update: Update) -> None:
        """Add an update. Points join those of their run that wait."""
        if isinstance(update, Points) and update.key in self._open:
            self._open[update.key].points += update.points
        else:
            self._updates.append(update)
            if isinstance(update, Points):
                self._open[update.key] = update
        self._size += _size(update)

    def first(self) -> Update:
        """The first update, to be tried. No further points join it."""
        update = self._updates[0]
        if isinstance(update, Points) and self._open.get(update.key) is update:
            del self._open[update.key]
        return update

    def done(self) -> None:
        """Remove the first update."""
        self._size -= _size(self._updates.popleft())


def _size(update: Update) -> int:
    return len(update.points) if isinstance(update, Points) else 1

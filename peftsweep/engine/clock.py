"""Where does a pack's time go? Every moment is counted once, for the innermost activity."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds by label: training, evaluation, checkpoints, other; and "source" between two calls of the pack, when the
    study samples, judges, stores and tracks."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._label, self._since = "source", time.perf_counter()

    def _turn(self, label: str) -> str:
        now, before = time.perf_counter(), self._label
        self.seconds[before] += now - self._since
        self._label, self._since = label, now
        return before

    @contextmanager
    def at(self, label: str) -> Iterator[None]:
        before = self._turn(label)
        try:
            yield
        finally:
            self._turn(before)

"""When does Python look for garbage? Seldom, while a process makes or holds a million objects that are not garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_replaced: list[tuple[int, int, int]] = []  # thresholds to come back to, the process's own first


@contextmanager
def collected_seldom() -> Iterator[None]:
    """Collect garbage less often inside the block. Imports and tens of thousands of trials make objects that stay. At
    Python's usual pace the collector takes as long as reading the trials, and a tenth of the time of the imports."""
    before = gc.get_threshold()
    _replaced.append(before)
    gc.set_threshold(max(before[0], 50_000) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*_replaced.pop())


def keep_until_exit() -> None:
    """Exempt what exists from the collection with which Python ends: it would look through a million objects, which
    takes seconds, to free memory that the operating system frees anyway."""
    gc.freeze()


@contextmanager
def existing_objects_kept() -> Iterator[None]:
    """Exempt what exists now from garbage collection inside the block, which has the usual pace. Imports make a million
    objects that stay, and to look through them takes a third of a second, again and again, in which no worker gets an
    answer."""
    frozen_before, pace = gc.get_freeze_count(), gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*(_replaced[0] if _replaced else pace))
    try:
        yield
    finally:
        gc.set_threshold(*pace)
        if not frozen_before:  # otherwise the caller will unfreeze them
            gc.unfreeze()

"""When does Python look for garbage? Seldom, while a process makes or holds a million objects that are not garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collected_seldom() -> Iterator[None]:
    """Collect garbage less often inside the block. Tens of thousands of trials are read into objects that stay, and at
    Python's usual pace the collector takes as long as the reading."""
    usual = gc.get_threshold()
    gc.set_threshold(max(usual[0], 50_000) if usual[0] else 0, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


@contextmanager
def existing_objects_kept() -> Iterator[None]:
    """Exempt what exists now from garbage collection inside the block. Imports make a million objects that stay, and to
    look through them takes a third of a second, again and again, in which no worker gets an answer."""
    frozen_before = gc.get_freeze_count()  # then the caller will unfreeze them
    gc.freeze()
    try:
        yield
    finally:
        if not frozen_before:
            gc.unfreeze()

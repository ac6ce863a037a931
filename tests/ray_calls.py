"""Calls of workers of Ray without a study."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from peftsweep.workers import Answer, Failed, Lost
from peftsweep.workers.ray_pool import RayPool


class Fails:
    """What a worker cannot unpickle: its answer quotes the value."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return operator.getitem, ({}, self.value)


class Result:
    """What is a function's result once a worker has unpickled it."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, ()


def comes(pool: RayPool) -> Sequence[Answer | Failed | Lost]:
    """The next answers; none if a worker has come instead."""
    before = pool.free()
    while pool.free() == before:
        if answers := pool.wait(1.0):
            return answers
    return []

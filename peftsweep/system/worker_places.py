"""What does the broker know of a worker, and when has it waited for it too long?"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from peftsweep.system.worker_resources import Resources

SHORTEST = (
    10.0  # seconds of silence that are no hang: a worker reports about once a second, but a step may take several
)
PATIENCE = 0.25  # share of a call's limit after which a worker is asked whether it makes progress


@dataclass
class Place:
    """A worker's place.

    Attributes:
        actor: of Ray.
        needs: what it takes from its node.
        losses: workers lost in a row, without an evaluation, before this one.
        limits: seconds in which a call must be answered or make progress, by its name.
        call: the one under way.
        since: when it was sent, or was last seen to make progress; infinite once its answer is here.
        process: its id on its node.
        node: its id in the cluster; empty until the worker has arrived.
        passes: number of passes through the base that it told of last.
        asked: whether it is asked for that number now.
    """

    actor: Any
    needs: Resources
    losses: int
    limits: Mapping[str, float]
    call: str = "arrive"
    since: float = field(default_factory=time.monotonic)
    process: int | None = None
    node: str = ""
    passes: int = 0
    asked: bool = False

    def begin(self, call: str) -> None:
        self.call, self.since = call, time.monotonic()

    def answered(self) -> None:
        """Called as soon as the answer is here, however long it then waits to be read."""
        self.since = math.inf

    @property
    def time_limit(self) -> float:
        return self.limits.get(self.call, math.inf)

    def hangs(self, now: float) -> bool:
        return now > self.since + self.time_limit

    def is_quiet(self, now: float) -> bool:
        """Whether it is time to ask for the number of passes. An evaluation alone may take longer than the limit."""
        return not self.asked and now > self.since + PATIENCE * self.time_limit

    def told(self, passes: Future[int]) -> None:
        """Called once it has told the number of its passes. If it died instead, its call will say so."""
        self.asked = False
        if passes.exception() is None and passes.result() != self.passes and self.since < math.inf:
            self.passes, self.since = passes.result(), time.monotonic()

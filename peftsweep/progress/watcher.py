"""What a sweep reports to its watcher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:  # the engine brings torch along, and `peftsweep best` draws tables without it
    from peftsweep.engine import SlotStatus


@dataclass(frozen=True)
class Memory:
    """GPU memory that a pack is planned to take, in bytes."""

    planned: int
    whole: int
    slots: int
    tokens: int  # most tokens that go through the base at once


@dataclass(frozen=True)
class Opened:
    """What a sweep has loaded when it begins."""

    study: str
    model: str
    method: str
    parameters: int  # of the base
    trainable: tuple[int, int]  # of a trial: the fewest and the most that the space allows
    slots: int
    rows: Mapping[str, int]  # by split
    device: str
    dtype: str
    done: int  # trials that have ended
    total: int  # trials of the study
    storage: str
    tracking: str
    objective: str = "macro_f1"  # the score that trials are compared by
    memory: Memory | None = None  # nothing is planned on a CPU


class Progress(Protocol):
    """A watcher, used as a context manager while trials run. Notes and warnings may come before and after."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def opened(self, what: Opened) -> None:
        """The base and the data are loaded; trials begin."""

    def note(self, text: str) -> None:
        """Report something that needs no action."""

    def warn(self, text: str) -> None:
        """Report something that the user may want to change."""

    def step(
        self,
        slots: Sequence[SlotStatus],
        *,
        done: int,
        total: int,
        best: tuple[int, float] | None,
        eta: float | None,
    ) -> None:
        """Called after every training step, so it must take hardly any time.

        Args:
            done: trials that have ended.
            total: trials of the study.
            best: number and score (by the objective) of the best trial so far, including earlier runs.
            eta: seconds left, or None if they cannot be estimated yet.
        """

    def ended(
        self, trial: int, state: str, value: float | None, reason: str, params: Mapping[str, Any], seconds: float
    ) -> None:
        """A trial has left its slot: it is complete, pruned or failed.

        Args:
            value: score of its best evaluation by the objective; None if it had no evaluation.
            params: the hyperparameters that the search drew.
        """

    def closed(self) -> None:
        """No more trials run. May be called twice."""


class Silent:
    """Reports nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.closed()

    def opened(self, what: Opened) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    def step(
        self,
        slots: Sequence[SlotStatus],
        *,
        done: int,
        total: int,
        best: tuple[int, float] | None,
        eta: float | None,
    ) -> None:
        pass

    def ended(
        self, trial: int, state: str, value: float | None, reason: str, params: Mapping[str, Any], seconds: float
    ) -> None:
        pass

    def closed(self) -> None:
        pass

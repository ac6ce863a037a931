"""What a sweep tells whoever watches it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:  # the engine brings torch along, and `peftsweep best` draws tables without it
    from peftsweep.engine import SlotStatus


@dataclass(frozen=True)
class Memory:
    """What a pack is planned to take of a GPU, in bytes."""

    planned: int
    whole: int
    slots: int
    tokens: int  # that go through the base at once


@dataclass(frozen=True)
class Opened:
    """What was loaded when a sweep begins."""

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
    objective: str = "macro_f1"  # what the trials are compared by
    memory: Memory | None = None  # of a CPU nothing is planned


class Progress(Protocol):
    """A watcher, entered as a context while trials run. Notes and warnings may come before and after."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def opened(self, what: Opened) -> None:
        """The base and the data are there; trials begin."""

    def note(self, text: str) -> None:
        """Something worth knowing that asks for nothing."""

    def warn(self, text: str) -> None:
        """Something that the user may want to change."""

    def step(
        self,
        slots: Sequence[SlotStatus],
        *,
        done: int,
        total: int,
        best: tuple[int, float] | None,
        eta: float | None,
    ) -> None:
        """After every training step: what it costs must not show.

        Args:
            done: trials that have ended.
            total: trials of the study.
            best: number and score, by the objective, of the best trial so far, of earlier runs too.
            eta: seconds left, when there is something to estimate them from.
        """

    def ended(
        self, trial: int, state: str, value: float | None, reason: str, params: Mapping[str, Any], seconds: float
    ) -> None:
        """A trial has left its slot, complete, pruned or failed.

        Args:
            value: score of its best evaluation by the objective, None when it had none.
            params: what the search sampled for it.
        """

    def closed(self) -> None:
        """No more trials run; may be called twice."""


class Silent:
    """Nobody watches."""

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

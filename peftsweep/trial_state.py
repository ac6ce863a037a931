"""How does a trial stand? The states, in the words that people read. Every table that maps states has them as keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Literal


class TrialState(StrEnum):
    """The state of a trial; its value is the word for it.

    Example:
        >>> TrialState("failed").finished, f"{TrialState.FAILED}"
        (True, 'failed')
    """

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    RUNNING = "running"
    """It has begun and not ended."""
    STOPPED = "stopped"
    """It is `RUNNING` by its record, and nobody trains its study: the next run or the next free worker resumes it."""
    WAITING = "waiting"
    """It was enqueued and has not begun."""

    @property
    def finished(self) -> bool:
        return self in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED)


Ended = Literal[TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED]
"""The states of a trial that has ended."""


def ending(state: TrialState, reason: str) -> str:
    """`pruned at step 63 of 189`, `complete, all 189 steps`: how a trial ended. Its reason may begin with the state."""
    return reason if reason.startswith(f"{state} ") else f"{state}, {reason}"


def count_states(states: Iterable[TrialState], *, live: bool) -> dict[str, int]:
    """How many trials are in each state, by the word for it.

    Args:
        live: whether workers train the study. If none does, its running trials are stopped.
    """
    counts = Counter(state if live or state != TrialState.RUNNING else TrialState.STOPPED for state in states)
    return {str(state): counts[state] for state in TrialState}

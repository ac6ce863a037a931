"""How a trial stands, in the words that people read. Nothing else translates Optuna's states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum

from optuna.trial import TrialState as OptunaState


class TrialState(StrEnum):
    """The state of a trial; its value is the word for it.

    Example:
        >>> TrialState("failed").in_optuna.name, f"{TrialState.of(OptunaState.FAIL)}"
        ('FAIL', 'failed')
    """

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    RUNNING = "running"
    """It has begun and not ended. Where no process runs its study, people read `STOPPED`."""
    WAITING = "waiting"
    """It was enqueued and has not begun."""

    @classmethod
    def of(cls, state: OptunaState) -> TrialState:
        return _FROM_OPTUNA[state]

    @property
    def in_optuna(self) -> OptunaState:
        return _TO_OPTUNA[self]

    @property
    def finished(self) -> bool:
        return self in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED)


STOPPED = "stopped"
_FROM_OPTUNA = {
    OptunaState.COMPLETE: TrialState.COMPLETE,
    OptunaState.PRUNED: TrialState.PRUNED,
    OptunaState.FAIL: TrialState.FAILED,
    OptunaState.RUNNING: TrialState.RUNNING,
    OptunaState.WAITING: TrialState.WAITING,
}
_TO_OPTUNA = {ours: theirs for theirs, ours in _FROM_OPTUNA.items()}


def count_states(states: Iterable[TrialState], *, live: bool) -> dict[str, int]:
    """How many trials are in each state, by the word that people read.

    Args:
        live: whether a process runs the study. If none does, its running trials were stopped.
    """
    counts = Counter(states)
    found = {str(state): counts[state] for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED)}
    running = counts[TrialState.RUNNING]
    found |= {str(TrialState.RUNNING): running if live else 0, STOPPED: 0 if live else running}
    return found | {str(TrialState.WAITING): counts[TrialState.WAITING]}

"""Which of Optuna's states is which of ours? Nothing else translates them."""

from __future__ import annotations

from optuna.trial import TrialState as OptunaState

from peftsweep.trial_state import TrialState

_IN_OPTUNA = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.PRUNED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
    TrialState.RUNNING: OptunaState.RUNNING,
    TrialState.WAITING: OptunaState.WAITING,
}
_FROM_OPTUNA = {theirs: ours for ours, theirs in _IN_OPTUNA.items()}


def from_optuna(state: OptunaState) -> TrialState:
    return _FROM_OPTUNA[state]


def in_optuna(state: TrialState) -> OptunaState:
    """Optuna's name for a state that is recorded; no record says that a trial was stopped."""
    return _IN_OPTUNA[state]

"""What is a trial's run called in MLflow? (A study's own run has the study's name.)"""

from __future__ import annotations

from peftsweep.trial_state import TrialState


def trial_name(number: int) -> str:
    return f"trial-{number:04d}"


def seed_name(trial: int, replicate: int) -> str:
    """Name of a seed's run: trial and seed come first, since MLflow's table shows only ten characters of a name."""
    return f"{trial} seed {replicate}"


def run_name(name: str, state: TrialState) -> str:
    """The name with the trial's state: a pruned run has the status of one that was stopped, and MLflow's table does not
    show tags at first."""
    return f"{name} pruned" if state == TrialState.PRUNED else name

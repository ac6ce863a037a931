"""How far is each study, and does it run? Plain rows for `status`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from peftsweep.errors import StorageError
from peftsweep.storage import StoredStudy, Studies, TrialRecord, guarded
from peftsweep.study.results import Warn, done, ranked, resuming, stored, unheard
from peftsweep.sweep_state import SweepState
from peftsweep.system.default_places import STORAGE
from peftsweep.trial_state import TrialState, count_states


def status(
    storage: str = STORAGE, studies: Sequence[str] | None = None, *, warn: Warn = unheard
) -> list[dict[str, Any]]:
    """For each study: trials by state, how many of their total are done, the best value of its objective (None before a
    trial is complete), and seconds of training.

    `state` says what has become of its sweep: `running`, `done`, `stopped` (trials are left), `failed` (an error ended
    it) or `died` (it never said that it ended); None if an earlier version ran it. `workers` are those of a running
    sweep. `heartbeat` is when the sweep last reported, `process` where it runs or ran, `reason` what stopped it,
    `resume` the command that goes on with it.

    A trial counts as `running` while a process runs its study, and as `stopped` otherwise: the next run resumes it.
    `retrain` says the same about the study's seeds, with `done` of `total`; None if it was not retrained.

    Arguments and errors are those of `best_rows.best`.
    """
    with guarded(storage):
        opened = stored(storage, studies, warn)
        return [] if opened is None else [_status(opened[0], study) for study in opened[1]]


def sweep_state(studies: Studies, study: StoredStudy) -> SweepState | None:
    """What has become of the sweep of a study, or of its seeds; None if it was never run, or by an earlier version."""
    sweep = study.record.sweep
    if studies.runs(study.study_name, sweep):  # the recorded one, or another that is starting
        return SweepState.RUNNING
    if sweep is None:
        return None
    return SweepState.DIED if sweep.state == SweepState.RUNNING else sweep.state


def _status(studies: Studies, study: StoredStudy) -> dict[str, Any]:
    trials, record = study.records(), study.record
    best = ranked(trials)[:1]
    again = _retrained(studies, study)
    state = _state(studies, study, trials)
    return {
        "study": study.study_name,
        **_counts(trials, live=_trains(study, state)),
        "done": done(trials),
        "total": record.total,
        "objective": record.objective,
        "best": best[0].value if best else None,
        "seconds": _seconds(trials),
        **_sweep(study, state),
        "retrain": None if again is None or not again.has_trials() else _seeds(studies, again),
    }


def _retrained(studies: Studies, study: StoredStudy) -> StoredStudy | None:
    try:
        return studies.retrained(study.study_name)
    except StorageError as error:
        studies.warn(f"{error}; it is left out")
        return None


def _seeds(studies: Studies, again: StoredStudy) -> dict[str, Any]:
    seeds, total = again.records(), again.record.total
    state = _state(studies, again, seeds)
    total = len(seeds) if total is None else total
    counts = _counts(seeds, live=_trains(again, state))
    return {
        "done": done(seeds),
        "total": total,
        **counts,
        "seconds": _seconds(seeds),
        **_sweep(again, state),
    }


def _state(studies: Studies, study: StoredStudy, trials: Sequence[TrialRecord]) -> SweepState | None:
    """The state. Whether a process has the study is looked up only where that can matter: it takes a connection."""
    sweep = study.record.sweep
    open_ended = (sweep is not None and sweep.state == SweepState.RUNNING) or any(
        trial.state == TrialState.RUNNING for trial in trials
    )
    return sweep_state(studies, study) if open_ended else None if sweep is None else sweep.state


def _sweep(study: StoredStudy, state: SweepState | None) -> dict[str, Any]:
    sweep = study.record.sweep
    live = sweep is not None and sweep.state == state == SweepState.RUNNING
    workers = sweep.workers if sweep is not None and live else []
    return {
        "state": state,
        "heartbeat": None if sweep is None else _time(sweep.heartbeat),
        "process": None if sweep is None else sweep.process,
        "reason": "" if sweep is None else sweep.reason,
        "resume": resuming(study),
        "workers": [worker.model_dump() | {"since": _time(worker.since)} for worker in workers],
    }


def _trains(study: StoredStudy, state: SweepState | None) -> bool:
    """Whether a worker trains the study. None does while they load the base, or are with another study of the command.
    An earlier version does not say."""
    sweep = study.record.sweep
    silent = sweep is None or sweep.state != SweepState.RUNNING
    return state == SweepState.RUNNING and (silent or bool(sweep and sweep.workers))


def _time(moment: int) -> str:
    """`2026-01-31T12:00:05Z`, from milliseconds since 1970."""
    return f"{datetime.fromtimestamp(moment / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _counts(trials: Sequence[TrialRecord], *, live: bool) -> dict[str, int]:
    return count_states((trial.state for trial in trials), live=live)


def _seconds(trials: Sequence[TrialRecord]) -> float:
    return round(sum(trial.seconds or 0.0 for trial in trials), 1)

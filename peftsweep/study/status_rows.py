"""How far each study is: plain rows for `status`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peftsweep.errors import StorageError
from peftsweep.storage import StoredStudy, Studies, TrialRecord, guarded
from peftsweep.study.results import STORAGE, Warn, done, ranked, stored, unheard
from peftsweep.trial_state import TrialState, count_states


def status(
    storage: str = STORAGE, studies: Sequence[str] | None = None, *, warn: Warn = unheard
) -> list[dict[str, Any]]:
    """For each study: trials by state, their total, the best value of its objective (None before a trial is complete),
    and seconds of training.

    A trial counts as `running` while a process runs its study, and as `stopped` otherwise: the next run resumes it.
    `retrain` says the same about the study's seeds, with `done` of `total`; None if it was not retrained.

    Arguments and errors are those of `best_rows.best`.
    """
    with guarded(storage):
        opened = stored(storage, studies, warn)
        return [] if opened is None else [_status(opened[0], study) for study in opened[1]]


def _status(studies: Studies, study: StoredStudy) -> dict[str, Any]:
    trials, record = study.records(), study.record
    best = ranked(trials)[:1]
    again = _retrained(studies, study)
    seeds = [] if again is None else again.records()
    some = any(trial.state == TrialState.RUNNING for trial in [*trials, *seeds])
    doing = studies.doing(study.study_name) if some else None
    return {
        "study": study.study_name,
        **_counts(trials, live=doing == "run"),
        "total": record.total,
        "objective": record.objective,
        "best": best[0].value if best else None,
        "seconds": _seconds(trials),
        "retrain": None if again is None or not seeds else _seeds(again, seeds, live=doing == "retrain"),
    }


def _retrained(studies: Studies, study: StoredStudy) -> StoredStudy | None:
    try:
        return studies.retrained(study.study_name)
    except StorageError as error:
        studies.warn(f"{error}; it is left out")
        return None


def _seeds(again: StoredStudy, seeds: Sequence[TrialRecord], *, live: bool) -> dict[str, Any]:
    total = again.record.total
    total = len(seeds) if total is None else total
    return {"done": done(seeds), "total": total, **_counts(seeds, live=live), "seconds": _seconds(seeds)}


def _counts(trials: Sequence[TrialRecord], *, live: bool) -> dict[str, int]:
    return count_states((trial.state for trial in trials), live=live)


def _seconds(trials: Sequence[TrialRecord]) -> float:
    return round(sum(trial.seconds or 0.0 for trial in trials), 1)

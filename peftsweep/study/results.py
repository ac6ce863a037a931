"""How are studies read from a storage, and which of their trials are complete, and in which order?"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from peftsweep.config import StudyConfig
from peftsweep.errors import PeftsweepError, UsageError
from peftsweep.safe_text.quoting import shortened
from peftsweep.storage import (
    RETRAINED,
    StoredStudy,
    Studies,
    StudyRecord,
    TrialRecord,
    check_there,
    exists,
    guarded,
    masked,
)
from peftsweep.study.grid import total
from peftsweep.study.trial_files import ADAPTER, VALIDATION, arrays, predictions, trial_folder
from peftsweep.system.default_places import STORAGE
from peftsweep.system.names import check_study
from peftsweep.system.suggest import did_you_mean
from peftsweep.trial_state import TrialState

if TYPE_CHECKING:
    from peftsweep.task import Labels, Logits, Task

Warn = Callable[[str], object]


def unheard(text: str) -> None:
    """Ignore a warning."""


@dataclass(frozen=True)
class Finished:
    """A complete trial whose adapter exists.

    Attributes:
        folder: where its artifacts are.
        record, study_record: the records of the trial and of its study.
    """

    study: str
    number: int
    folder: Path
    record: TrialRecord
    study_record: StudyRecord

    @property
    def adapter(self) -> Path:
        return self.folder / ADAPTER

    @property
    def task(self) -> Task:
        return task_of(self.study_record)

    def predictions(self) -> tuple[Logits, Labels]:
        """Logits [n, C] of the validation rows at the best evaluation, and their labels."""
        return predictions(self.folder)

    def texts(self) -> list[NDArray[np.int64]]:
        """Token ids of the validation rows."""
        found = arrays(self.folder.parent / VALIDATION)
        return [text.astype(np.int64) for text in np.split(found["tokens"], found["lengths"].cumsum()[:-1])]


def finished(storage: str, study: str, trial: int | None = None, warn: Warn = unheard) -> Finished:
    """A complete trial of the study: the one with this number, or the best.

    Raises:
        UsageError: there is no such study or trial, the trial is not complete, or its adapter was not kept.
        StorageError: the storage does not answer, or does not exist.
    """
    with guarded(storage):
        opened = stored(storage, [study], warn)
        assert opened is not None  # a study was asked for
        studies, (found,) = opened
        trials = {each.number: each for each in found.records()}
        complete = ranked(list(trials.values()))
        folders = {each.number: trial_folder(studies.folder(study), each.number) for each in complete}
        kept = [number for number, folder in folders.items() if (folder / ADAPTER).is_dir()]
        have = f"trials with an adapter: {', '.join(map(str, kept))}, best first" if kept else "none has an adapter now"
        if not complete:
            raise none_complete(found)
        number = complete[0].number if trial is None else trial
        if number not in trials:
            raise UsageError(f"study {study!r} has no trial {number}; {have}")
        if number not in folders:
            raise UsageError(f"trial {number} of study {study!r} is {trials[number].state}, not complete; {have}")
        if number not in kept:
            place = 1 + [trial.number for trial in complete].index(number)
            raise UsageError(f"{_why_no_adapter(trials[number], study, folders[number], place)}; {have}")
        return Finished(study, number, folders[number], trials[number], found.record)


def _why_no_adapter(trial: TrialRecord, study: str, folder: Path, place: int) -> str:
    if trial.adapter is None:
        why = f"trial {trial.number} of study {study!r} has no adapter, since it was not among the best when it ended"
    else:
        why = (
            f"the adapter of trial {trial.number} of study {study!r} is not in {folder} any more: better trials took "
            "its place, or somebody deleted it"
        )
    return (
        f"{why}. It does not come back: to get one, set search.keep_adapters to {place} or more, and enqueue the "
        "trial's hyperparameters as a new trial"
    )


def none_complete(study: StoredStudy) -> UsageError:
    """The error for a study without a complete trial; it says what to do."""
    name, trials, total = study.study_name, study.records(), study.record.total
    if total is None or not trials or not is_over(trials, total):
        return UsageError(f"study {name!r} has no complete trial yet; go on with: {resuming(study)}")
    last = trials[-1]
    why = f": {shortened(last.reason, 200)}" if last.reason else ""
    return UsageError(
        f"study {name!r} is done and has no complete trial: trial {last.number} {last.state}{why}; for more "
        f"trials: peftsweep run --study {name} --trials {2 * total}; for another space, save the study file under "
        "another name"
    )


def resuming(study: StoredStudy) -> str:
    """The command that goes on with a study, or with its retraining: that of its last sweep, with all options. If it is
    not known, it is the command without any."""
    name, sweep = study.study_name, study.record.sweep
    main = name.removesuffix(RETRAINED)
    plain = shlex.join(["peftsweep", "run" if name == main else "retrain", "--study", main])
    return plain if sweep is None else sweep.command or plain


def task_of(record: StudyRecord) -> Task:
    """The task of a study."""
    from peftsweep.task import Task

    return Task(record.kind_of_task, tuple(record.labels))


def validation_fingerprints(studies: Iterable[StoredStudy]) -> dict[str, str]:
    """The fingerprint of each study's validation rows, by the study's name.

    An earlier version recorded only a fingerprint of all rows. Such a study gets the fingerprint of another study on
    the same data, if there is one; otherwise it is compared with no other.
    """
    records = {study.study_name: study.record for study in studies}
    known = {own.fingerprint: own.validation_fingerprint for own in records.values() if own.validation_fingerprint}
    return {
        name: known.get(own.fingerprint, own.validation_fingerprint or own.fingerprint) for name, own in records.items()
    }


def ranked(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Complete trials, the best first; of equal ones, the earliest first."""
    complete = [(trial.value, trial) for trial in trials if trial.state == TrialState.COMPLETE]
    return [trial for value, trial in sorted(complete, key=lambda each: (-(each[0] or 0.0), each[1].number))]


def is_over(trials: Sequence[TrialRecord], total: int) -> bool:
    """Whether at least `total` trials have begun, and all of them have ended."""
    begun = [trial for trial in trials if trial.begun]
    return len(begun) >= total and all(trial.state.finished for trial in begun)


def has_ended(storage: str, config: StudyConfig, trials: int | None) -> bool:
    """Whether a study has ended all trials that it shall have; False if it cannot be read.

    Args:
        trials: their number, if it is not that of the study file.
    """
    with suppress(PeftsweepError), guarded(storage):
        _, (study,) = opened(storage, [config.name])
        return is_over(study.records(), total(config, trials))
    return False


def done(trials: Sequence[TrialRecord]) -> int:
    """How many trials that count towards the study's total have ended."""
    return sum(trial.begun and trial.state.finished for trial in trials)


def opened(storage: str, wanted: Sequence[str] | None, warn: Warn = unheard) -> tuple[Studies, list[StoredStudy]]:
    """The storage with all its studies, or with the wanted ones.

    Raises:
        UsageError: nothing is stored there, or a wanted study is not.
        StorageError: see `best`.
    """
    found = stored(storage, wanted, warn)
    if found is None or not found[1]:
        raise UsageError(f"nothing is stored in {masked(storage)} yet; to begin: peftsweep run --study demo")
    return found


def stored(storage: str, wanted: Sequence[str] | None, warn: Warn) -> tuple[Studies, list[StoredStudy]] | None:
    """The same, but None if nothing is stored and no study is wanted. Only the default file may be missing."""
    for name in wanted or ():
        check_study(name)
    if not exists(storage):
        if storage != STORAGE:
            check_there(storage)
        if wanted:
            raise UsageError(f"no study {wanted[0]!r}: nothing is stored in {masked(storage)} yet")
        return None
    studies = Studies(storage, warn)
    names = studies.names()
    for name in wanted or ():
        if name not in names:
            hint = did_you_mean(name, names) or f"; it has {', '.join(names) or 'none'}"
            raise UsageError(f"no study {name!r} in {masked(storage)}{hint}")
    return studies, studies.all(list(dict.fromkeys(wanted)) if wanted else None)

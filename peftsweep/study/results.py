"""What came of the studies: rows for `best`, a complete trial for `export`, and how both are read from a storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from peftsweep.errors import UsageError
from peftsweep.safe_text.quoting import shortened
from peftsweep.storage import (
    StoredStudy,
    Studies,
    StudyRecord,
    TrialRecord,
    TrialState,
    check_there,
    exists,
    guarded,
    masked,
)
from peftsweep.study.trial_files import ADAPTER, VALIDATION, arrays, predictions, trial_folder
from peftsweep.system.names import check_study
from peftsweep.system.suggest import did_you_mean

if TYPE_CHECKING:
    from peftsweep.task import Labels, Logits, Task

Warn = Callable[[str], object]

STORAGE = "sqlite:///studies.db"


@dataclass(frozen=True)
class Best:
    """A row of `best`: a study's best complete trial. Its scores and its adapter are those of its best evaluation.

    Attributes:
        objective: the score that trials are ranked by: `macro_f1` or `macro_f1_tuned`.
        data: name of the study's data with its kind of task: `tweets · single-label`.
        fingerprint: identifies the rows of all splits.
        validation_fingerprint: identifies the validation rows and the labels. Scores are comparable only if it is the
            same.
        overall: whether no other study in the list has a better score on the same validation rows.
        tied: numbers of the study's other trials with the same score.
        labels: in the order of the logits.
        params: all hyperparameters, sampled and fixed.
        sampled: names of the sampled ones.
        adapter: the folder that stock `peft` loads.
        macro_f1_tuned: with thresholds tuned on other rows than those scored; None for single-label tasks.
        test: scores on the test split, if the data has one. They belong to the trial that was the best when the study
            was first done.
        tested: number of the trial that `test` is about.
        retrained: rows of `retrain`: the best configurations over several seeds; None if the study was not retrained.
    """

    study: str
    data: str | None
    fingerprint: str | None
    validation_fingerprint: str | None
    model: str
    method: str
    trial: int
    macro_f1: float
    micro_f1: float
    accuracy: float
    loss: float
    step: int
    params: dict[str, Any]
    sampled: list[str]
    mlflow_run_id: str | None
    adapter: str | None
    test: dict[str, float | None] | None
    objective: str = "macro_f1"
    macro_f1_tuned: float | None = None
    tested: int | None = None
    retrained: list[dict[str, Any]] | None = None
    overall: bool = False
    tied: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def unheard(text: str) -> None:
    """Ignore a warning."""


def best(storage: str = STORAGE, studies: Sequence[str] | None = None, *, warn: Warn = unheard) -> list[Best]:
    """The best trial of each study that has a complete one. Studies on the same validation rows stand together, the
    best first.

    Args:
        storage: the URL of an SQLite file or a PostgreSQL database. The command's environment variable is not read.
        studies: only these.
        warn: called with a line about each thing in the storage that cannot be used.

    Raises:
        UsageError: a study is not in the storage.
        StorageError: the storage does not answer, or does not exist. The default one need not exist.
    """
    with guarded(storage):
        opened = stored(storage, studies, warn)
        if opened is None:
            return []
        rows = validation_fingerprints(opened[1])
        found = (_best(opened[0], study, rows[study.study_name]) for study in opened[1])
        return _ordered([row for row in found if row is not None])


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
            raise UsageError(
                f"the adapter of trial {number} of study {study!r} is not in {folders[number]} (search.keep_adapters "
                f"says how many of the best are kept); {have}"
            )
        return Finished(study, number, folders[number], trials[number], found.record)


def none_complete(study: StoredStudy) -> UsageError:
    """The error for a study without a complete trial; it says what to do."""
    name, trials, total = study.study_name, study.records(), study.record.total
    if total is None or not trials or not is_over(trials, total):
        return UsageError(f"study {name!r} has no complete trial yet; go on with: peftsweep run --study {name}")
    last = trials[-1]
    why = f": {shortened(last.reason, 200)}" if last.reason else ""
    return UsageError(
        f"study {name!r} is done and has no complete trial: trial {last.number} {last.state}{why}; for more "
        f"trials: peftsweep run --study {name} --trials {2 * total}; for another space, save the study file under "
        "another name"
    )


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


def _best(studies: Studies, study: StoredStudy, rows: str) -> Best | None:
    trials, record = ranked(study.records()), study.record
    if not trials:
        return None
    first, test = trials[0], record.test
    folder = trial_folder(studies.folder(study.study_name), first.number)
    return Best(
        study=study.study_name,
        data=record.data,
        fingerprint=record.fingerprint,
        validation_fingerprint=rows,
        model=record.config.model.id,
        method=record.config.method,
        trial=first.number,
        macro_f1=first.scores["macro_f1"],
        micro_f1=first.scores["micro_f1"],
        accuracy=first.scores["accuracy"],
        loss=first.scores["loss"],
        step=first.step or 0,
        params=first.params,
        sampled=sorted(record.config.space.keys() & first.params.keys()),
        mlflow_run_id=study.mlflow_runs.get(str(first.number)),
        adapter=None if first.adapter is None else str(folder / ADAPTER),
        test=None if test is None else test.scores,
        objective=record.objective,
        macro_f1_tuned=first.scores.get("macro_f1_tuned"),
        tested=None if test is None else test.trial,
        retrained=record.retrained,
        tied=[trial.number for trial in trials[1:] if trial.value == first.value],
        labels=list(record.labels),
    )


def _ordered(rows: Sequence[Best]) -> list[Best]:
    """Group the rows by their validation rows; order the groups by the data's names, and each group by score. The best
    of a group, and its equals, are marked. A group's score is its studies' objective, if they share one."""
    by_rows: dict[str | None, list[Best]] = {}
    for row in rows:
        by_rows.setdefault(row.validation_fingerprint, []).append(row)
    found = []
    for same in sorted(by_rows.values(), key=lambda same: min((row.data or "", row.study) for row in same)):
        score = attrgetter(common_objective(row.objective for row in same))
        highest = max(map(score, same))
        same.sort(key=lambda row: (-score(row), row.study))
        found += [replace(row, overall=score(row) == highest) for row in same]
    return found


def common_objective(objectives: Iterable[str]) -> str:
    """The score that studies are compared by: their objective if they share one, otherwise macro-F1."""
    different = set(objectives)
    return different.pop() if len(different) == 1 else "macro_f1"

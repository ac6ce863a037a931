"""What is a row of `best`? The best trial of a study, with its scores and its adapter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from peftsweep.scores import ScoreOf, in_columns
from peftsweep.storage import Retrained, StoredStudy, Studies, guarded
from peftsweep.study.results import Warn, ranked, stored, unheard, validation_fingerprints
from peftsweep.study.trial_files import ADAPTER, trial_folder
from peftsweep.system.default_places import STORAGE


@dataclass(frozen=True)
class Best:
    """A row of `best`: a study's best complete trial. Its scores and its adapter are those of its best evaluation.

    Attributes:
        objective: the score that trials are ranked by: `macro_f1` or `macro_f1_tuned`.
        data: name of the study's data with its kind of task: `tweets · single-label`.
        fingerprint: identifies the rows of all splits.
        validation_fingerprint: identifies the validation rows and the labels. Scores are comparable only if it is the
            same.
        scores: by name. Five of them are attributes, too: `macro_f1`, `micro_f1`, `accuracy`, `loss`, and
            `macro_f1_tuned`, which is None for single-label tasks (its thresholds are tuned on other rows than those
            scored).
        overall: whether no other study in the list has a better score on the same validation rows.
        tied: numbers of the study's other trials with the same score.
        labels: in the order of the logits.
        params: all hyperparameters, sampled and fixed.
        sampled: names of the sampled ones.
        adapter: the folder that stock `peft` loads.
        test: scores on the test split, if the data has one. They belong to the trial that was the best when the study
            was first done.
        tested: number of the trial that `test` is about.
        configurations: the best ones over several seeds; None if the study was not retrained.
    """

    study: str
    data: str | None
    fingerprint: str | None
    validation_fingerprint: str | None
    model: str
    method: str
    trial: int
    scores: dict[str, float]
    step: int
    params: dict[str, Any]
    sampled: list[str]
    mlflow_run_id: str | None
    adapter: str | None
    test: dict[str, float | None] | None
    objective: str = "macro_f1"
    tested: int | None = None
    configurations: list[Retrained] | None = None
    overall: bool = False
    tied: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    macro_f1 = ScoreOf[float]()
    macro_f1_tuned = ScoreOf[float | None]()
    micro_f1 = ScoreOf[float]()
    accuracy = ScoreOf[float]()
    loss = ScoreOf[float]()

    @property
    def retrained(self) -> list[dict[str, Any]] | None:
        """The configurations as plain values."""
        return None if self.configurations is None else [each.as_dict() for each in self.configurations]

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with a key for each score that has a column."""
        found = {"retrained" if name == "configurations" else name: value for name, value in asdict(self).items()}
        return in_columns(found | {"retrained": self.retrained})


def best(storage: str = STORAGE, studies: Sequence[str] | None = None, *, warn: Warn = unheard) -> list[Best]:
    """The best trial of each study that has a complete one. Studies on the same validation rows follow each other, the
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
        scores=first.scores,
        step=first.step or 0,
        params=first.params,
        sampled=sorted(record.config.space.keys() & first.params.keys()),
        mlflow_run_id=study.mlflow_runs.get(str(first.number)),
        adapter=None if first.adapter is None else str(folder / ADAPTER),
        test=None if test is None else test.scores,
        objective=record.objective,
        tested=None if test is None else test.trial,
        configurations=record.retrained,
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
        score = common_objective(row.objective for row in same)
        highest = max(row.scores[score] for row in same)
        same.sort(key=lambda row: (-row.scores[score], row.study))
        found += [replace(row, overall=row.scores[score] == highest) for row in same]
    return found


def common_objective(objectives: Iterable[str]) -> str:
    """The score that studies are compared by: their objective if they share one, otherwise macro-F1."""
    different = set(objectives)
    return different.pop() if len(different) == 1 else "macro_f1"

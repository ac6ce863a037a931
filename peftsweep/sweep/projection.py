"""What does a tracker learn about a study? A run for the study and for each trial, made from the study's records."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftsweep import engine
from peftsweep.errors import StudyBusyError
from peftsweep.storage import EvaluationRecord, StoredStudy, TrialRecord, write_study
from peftsweep.study import artifacts
from peftsweep.study.results import is_over, ranked
from peftsweep.system.folders import inside
from peftsweep.tracking import (
    KEY,
    RETRAIN_OF,
    Outcome,
    Point,
    StudySnapshot,
    Tracker,
    TrialSnapshot,
    now,
    seed_name,
    trial_name,
)
from peftsweep.trial_state import TrialState

SPOOL = ".mlflow"  # in the folder of the study's artifacts


class Projection:
    """Everything that a tracker gets comes from the study, so any process can write what another one could not.

    Args:
        folder: the study's folder of artifacts. This process has the study's lease, so updates that wait in the folder
            for the tracker are its own.

    Attributes:
        opened: whether the tracker knows that the study runs.
    """

    def __init__(self, study: StoredStudy, tracker: Tracker, folder: Path) -> None:
        self.study, self.tracker, self.folder = study, tracker, folder
        tracker.keep_copies_in(inside(folder, folder / SPOOL))
        self.opened = False
        self._noted = -math.inf

    @property
    def is_behind(self) -> bool:
        """Whether the tracker lacks something: a process could not write it, or the study has changed since."""
        return self.study.record.in_sync is False

    def outdate(self) -> None:
        """Note that the study has changed, so that the tracker's run of it is written again."""
        write_study(self.study, in_sync=False)

    def open(self, *, whole: bool = False) -> None:
        """Start or resume the study's runs, and end those that a killed process left running.

        Args:
            whole: check every point and artifact, also of trials whose runs have ended as the trials did. This is done
                anyway after an update was lost for good.
        """
        if self.study.record.began is None:  # an earlier version did not record it: it began with its first trial
            known = [trial.began for trial in self.study.records() if trial.began is not None]
            write_study(self.study, began=min(known, default=now()))
        self.opened = True
        write_study(self.study, in_sync=False)
        self.study.flush()  # before the tracker has anything
        self.tracker.open_study(self._study_snapshot())
        self.tracker.catch_up(self._trial_snapshots(), whole=whole or self.study.record.mlflow_lost)

    def is_there(self, total: int) -> bool:
        """Whether the tracker has everything that the study has. It is only read.

        Args:
            total: number of trials that the study shall have.

        Raises:
            TrackingError: it does not answer.
        """
        there = self.tracker.has_all(self._study_snapshot(), self._study_outcome(total), self._trial_snapshots())
        if there:
            self.note()  # the study's ids may be missing, or another server's
        return there and not self.is_behind

    def _study_snapshot(self) -> StudySnapshot:
        record = self.study.record
        planned = {key: int(value) for key, value in record.memory.items() if key == "planned_bytes"}
        above = {} if record.retrain_of is None else {RETRAIN_OF: record.retrain_of}
        return StudySnapshot(
            self.study.study_name,
            record.data,
            params=record.described | planned,
            tags=self._tags(None) | {KEY: str(record.key)} | above,
            known=self.study.mlflow_runs,
            began=record.began,
        )

    def begin(self, trial: TrialRecord) -> None:
        """Start or resume a trial's run, and write the evaluations that it lacks."""
        params, tags = self._params(trial), self._tags(trial)
        self.tracker.start_trial(trial.number, params=params, tags=tags, at=trial.began, name=_name(trial))
        for evaluation in trial.evaluations:
            self.evaluated(trial.number, evaluation)

    def evaluated(self, number: int, evaluation: EvaluationRecord) -> None:
        """Write an evaluation."""
        point = _point(evaluation)
        self.tracker.log(number, point.metrics, point.step, point.at)

    def end(self, trial: TrialRecord) -> None:
        self.tracker.end_trial(trial.number, self._outcome(trial), trial.ended)

    def note(self, *, least: float = 0.0) -> None:
        """Record how far the tracker is: the ids of its runs, and whether an update was lost for good.

        Args:
            least: seconds since the last note. There is an id for each trial, and all of them are written.
        """
        if time.monotonic() < self._noted + least:
            return
        self._noted = time.monotonic()
        ids = self.tracker.run_ids
        if ids and ids != self.study.mlflow_runs:
            write_study(self.study, mlflow_runs=ids)
        if self.tracker.lost and not self.study.record.mlflow_lost:
            write_study(self.study, mlflow_lost=True)

    def close(
        self, running: Iterable[int], total: int, commit: Callable[[], None] | None = None, **limits: float
    ) -> None:
        """End the runs that the tracker believes to be running, and record their ids.

        Args:
            running: trials that the next run will resume.
            total: number of trials that the study shall have.
            commit: stores what the study has changed.
            limits: arguments of `Tracker.close`.

        Raises:
            StudyBusyError: another process has taken the study over. The tracker's runs are left to it.
        """
        try:
            if commit is not None:
                commit()  # first, because the study may belong to another process by now
            if not self.opened and self.is_behind and self.study.mlflow_runs:
                self.open()  # a killed process left runs that the tracker believes to be running
            if self.opened:
                outcome, at = self._study_outcome(total), self._latest()
                for number in running:
                    self.tracker.end_trial(
                        number, Outcome(TrialState.STOPPED, "stopped; goes on with the next run"), at
                    )
                self.tracker.end_study(outcome, at)
        except StudyBusyError:
            self.tracker.abandon()
            raise
        finally:
            self.tracker.close(**limits)
        self.note()
        if self.opened and self.tracker.in_sync:
            record = self.study.record
            if record.mlflow_lost:
                write_study(self.study, mlflow_lost=False)
            if not record.in_sync:
                write_study(self.study, in_sync=True)
        self.study.flush()

    def _study_outcome(self, total: int) -> Outcome:
        """The outcome of the study itself, as it is now."""
        record, trials = self.study.record, self.study.records()
        best = ranked(trials)[:1]
        scores: Mapping[str, float | None]
        scores = {} if not best else {f"best_{name}": score for name, score in best[0].scores.items()}
        scores = scores if record.summary is None else record.summary  # a single best seed says nothing
        test = {} if record.test is None else {f"test_{name}": score for name, score in record.test.scores.items()}
        peak = {key: value for key, value in record.memory.items() if key == "peak_bytes"}
        metrics = {**scores, **test, **peak}
        file = self.folder / artifacts.STUDY  # written when the base is loaded
        return Outcome(
            TrialState.COMPLETE if is_over(trials, total) else TrialState.STOPPED,
            metrics={name: value for name, value in metrics.items() if value is not None},  # one seed has no deviation
            artifacts={f"{self.study.study_name}.yaml": file} if file.is_file() else {},
        )

    def _latest(self) -> int:
        """The latest moment that the study has recorded. Its run ends then, also if it is written again later."""
        latest = self.study.record.began or 0
        for trial in self.study.records():
            evaluated = [evaluation.at for evaluation in trial.evaluations]
            latest = max(latest, *(at or 0 for at in (trial.began, trial.ended, *evaluated)))
        return latest

    def _params(self, trial: TrialRecord) -> dict[str, Any]:
        seed = {} if trial.seed is None else {"seed": trial.seed}
        return {**trial.params, **seed, **self.study.record.described}

    def _trial_snapshots(self) -> dict[int, TrialSnapshot]:
        return {t.number: self._trial_snapshot(t) for t in self.study.records() if t.state != TrialState.WAITING}

    def _trial_snapshot(self, trial: TrialRecord) -> TrialSnapshot:
        curve = [_point(evaluation) for evaluation in trial.evaluations]
        shown = self._params(trial), self._tags(trial), curve, self._outcome(trial)
        return TrialSnapshot(*shown, trial.began, trial.ended, _name(trial))

    def _outcome(self, trial: TrialRecord) -> Outcome:
        """The outcome of a trial. A running one counts as stopped."""
        if not trial.state.finished:
            return Outcome(TrialState.STOPPED)
        scores = {f"best_{name}": score for name, score in trial.scores.items()}
        return Outcome(
            trial.state,
            trial.reason,
            metrics=scores | ({} if trial.seconds is None else {"seconds": trial.seconds}),
            artifacts=artifacts.files(self.folder, trial.number) if trial.state == TrialState.COMPLETE else {},
        )

    def _tags(self, trial: TrialRecord | None) -> dict[str, str]:
        """Tags of a trial's run, or of the study's run."""
        config = self.study.record.config
        tags = {"peftsweep.method": str(config.method), "peftsweep.model": config.model.id}
        seed = {} if trial is None else {"retrains": trial.retrains, "replicate": trial.replicate}
        return tags | {f"peftsweep.{name}": str(value) for name, value in seed.items() if value is not None}


def _name(trial: TrialRecord) -> str:
    """Name of a trial's run, or of a seed's."""
    if trial.retrains is None:
        return trial_name(trial.number)
    return seed_name(trial.retrains, trial.replicate or 0)


def recorded(evaluation: engine.Evaluation, before: Sequence[EvaluationRecord]) -> EvaluationRecord:
    """An evaluation as the study records it, with its time in milliseconds since 1970.

    Args:
        before: evaluations that the study has. One that is repeated after a process died keeps its first time.
    """
    at = before[evaluation.index - 1].at if evaluation.index <= len(before) else now()
    return EvaluationRecord(**vars(evaluation), at=at)


def _point(evaluation: EvaluationRecord) -> Point:
    """A recorded evaluation as a tracker's metrics."""
    scores = {("validation_loss" if name == "loss" else name): value for name, value in evaluation.scores.items()}
    own = {name: getattr(evaluation, name) for name in ("train_loss", "learning_rate", "epoch")}
    return Point(scores | own, evaluation.step, evaluation.at)

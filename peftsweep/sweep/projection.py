"""What MLflow shall hold of a study: its own run and a run for each trial, told from what the study has stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peftsweep import engine
from peftsweep.errors import StudyBusyError
from peftsweep.storage import Evaluation, StoredStudy, TrialRecord, TrialState, write_study
from peftsweep.study import artifacts
from peftsweep.study.results import is_over, ranked
from peftsweep.system.folders import inside
from peftsweep.tracking import KEY, RETRAIN_OF, Outcome, Point, StudySnapshot, Tracker, TrialSnapshot, now

SPOOL = ".mlflow"  # in the folder of the study's artifacts


class Projection:
    """The study is the truth: what is told comes from it, so that any process can tell what another one could not.

    Args:
        folder: of the study's artifacts. This process has the study's lease: what waits for MLflow in there is its own.

    Attributes:
        opened: whether MLflow has been told of this run.
    """

    def __init__(self, study: StoredStudy, tracker: Tracker, folder: Path) -> None:
        self.study, self.tracker, self.folder = study, tracker, folder
        tracker.keep_copies_in(inside(folder, folder / SPOOL))
        self.opened = False

    @property
    def is_behind(self) -> bool:
        """Whether the last process died, or lost sight of MLflow, before everything was written there; or the study has
        changed since."""
        return self.study.record.in_sync is False

    def outdate(self) -> None:
        """The study has changed: what MLflow was told of it as a whole is to be told anew."""
        write_study(self.study, in_sync=False)

    def open(self, *, whole: bool = False) -> None:
        """Begin or go on with the study's runs, and end those that a killed process left running.

        Args:
            whole: look at every point and artifact of trials that have ended there as they did here, too; as is done
                anyway after an update was lost for good.
        """
        if self.study.record.began is None:  # a study of an earlier version did with its first trial
            known = [trial.began for trial in self.study.records() if trial.began is not None]
            write_study(self.study, began=min(known, default=now()))
        self.opened = True
        write_study(self.study, in_sync=False)
        self.tracker.open_study(self._parent())
        self.tracker.catch_up(self._pasts(), whole=whole or self.study.record.mlflow_lost)

    def is_there(self, total: int) -> bool:
        """Whether MLflow holds all of it, as the study says; it is asked, and told nothing.

        Args:
            total: trials that the study is to have in all.

        Raises:
            TrackingError: it does not answer.
        """
        there = self.tracker.has_all(self._parent(), self._whole(total), self._pasts())
        if there:
            self.note()  # the ids that the study has may be those of another store, or none
        return there and not self.is_behind

    def _parent(self) -> StudySnapshot:
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
        """Begin a trial's run, or go on with it; of its evaluations so far, those that are missing there."""
        params, tags = self._params(trial), self._tags(trial)
        self.tracker.start_trial(trial.number, params=params, tags=tags, at=trial.began, name=_name(trial))
        for evaluation in trial.evaluations:
            self.evaluated(trial.number, evaluation)

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        """An evaluation as the study has it."""
        point = _point(evaluation)
        self.tracker.log(number, point.metrics, point.step, point.at)

    def end(self, trial: TrialRecord) -> None:
        self.tracker.end_trial(trial.number, self._outcome(trial), trial.ended)

    def note(self) -> None:
        """Keep in the study how far the writer is: MLflow's run ids, and whether an update was lost for good."""
        ids = self.tracker.run_ids
        if ids and ids != self.study.mlflow_runs:
            write_study(self.study, mlflow_runs=ids)
        if self.tracker.lost and not self.study.record.mlflow_lost:
            write_study(self.study, mlflow_lost=True)

    def close(self, running: Iterable[int], total: int, **limits: float) -> None:
        """End what MLflow still believes to be running, and remember its run ids.

        Args:
            running: trials that go on with the next run.
            total: trials that the study is to have in all.
            limits: of `Tracker.close`.

        Raises:
            StudyBusyError: another process has taken the study over, and MLflow's runs with it: they are left to it.
        """
        try:
            if self.opened:
                # first: they ask the study, which may be another process's by now
                whole, at = self._whole(total), self._latest()
                for number in running:
                    self.tracker.end_trial(number, Outcome("interrupted", "stopped; goes on with the next run"), at)
                self.tracker.end_study(whole, at)
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

    def _whole(self, total: int) -> Outcome:
        """The study's own outcome, as it is now."""
        record, trials = self.study.record, self.study.records()
        best = ranked(trials)[:1]
        scores: Mapping[str, float | None]
        scores = {} if not best else {f"best_{name}": score for name, score in best[0].scores.items()}
        scores = scores if record.summary is None else record.summary  # of seeds, the best one says nothing
        test = {} if record.test is None else {f"test_{name}": score for name, score in record.test.scores.items()}
        peak = {key: value for key, value in record.memory.items() if key == "peak_bytes"}
        metrics = {**scores, **test, **peak}
        file = self.folder / artifacts.STUDY
        return Outcome(
            "complete" if is_over(trials, total) else "interrupted",
            metrics={name: value for name, value in metrics.items() if value is not None},  # one seed has no deviation
            artifacts={f"{self.study.study_name}.yaml": file} if file.is_file() else {},  # no base, no file yet
        )

    def _latest(self) -> int:
        """The latest moment that the study knows of. Its own run ends then, so that one made anew ends no later."""
        latest = self.study.record.began or 0
        for trial in self.study.records():
            evaluated = [evaluation.at for evaluation in trial.evaluations]
            latest = max(latest, *(at or 0 for at in (trial.began, trial.ended, *evaluated)))
        return latest

    def _params(self, trial: TrialRecord) -> dict[str, Any]:
        seed = {} if trial.seed is None else {"seed": trial.seed}
        return {**trial.params, **seed, **self.study.record.described}

    def _pasts(self) -> dict[int, TrialSnapshot]:
        return {t.number: self._past(t) for t in self.study.records() if t.state != TrialState.WAITING}

    def _past(self, trial: TrialRecord) -> TrialSnapshot:
        curve = [_point(evaluation) for evaluation in trial.evaluations]
        told = self._params(trial), self._tags(trial), curve, self._outcome(trial)
        return TrialSnapshot(*told, trial.began, trial.ended, _name(trial))

    def _outcome(self, trial: TrialRecord) -> Outcome:
        """Of a trial that is over, or was when its process died."""
        if not trial.state.finished:
            return Outcome("interrupted")
        scores = {f"best_{name}": score for name, score in trial.scores.items()}
        return Outcome(
            trial.state.value,
            trial.reason,
            metrics=scores | ({} if trial.seconds is None else {"seconds": trial.seconds}),
            artifacts=artifacts.files(self.folder, trial.number) if trial.state == TrialState.COMPLETE else {},
        )

    def _tags(self, trial: TrialRecord | None) -> dict[str, str]:
        """Of a trial's run, or of the study's own."""
        config = self.study.record.config
        tags = {"peftsweep.method": str(config.method), "peftsweep.model": config.model.id}
        seed = {} if trial is None else {"retrains": trial.retrains, "replicate": trial.replicate}
        return tags | {f"peftsweep.{name}": str(value) for name, value in seed.items() if value is not None}


def _name(trial: TrialRecord) -> str:
    """Of its run. Of a retrained one the trial and the seed: MLflow's table shows ten characters there."""
    return f"trial-{trial.number:04d}" if trial.retrains is None else f"{trial.retrains} seed {trial.replicate}"


def stored(evaluation: engine.Evaluation, before: Sequence[Evaluation]) -> Evaluation:
    """An evaluation as the study keeps it: with the time it was made at, in milliseconds since 1970.

    Args:
        before: those that the study has. One made again, after a process died, keeps the time of the first.
    """
    at = before[evaluation.index - 1].at if evaluation.index <= len(before) else now()
    return Evaluation(**asdict(evaluation), at=at)


def _point(evaluation: Evaluation) -> Point:
    """A stored evaluation as MLflow's metrics."""
    scores = {("validation_loss" if name == "loss" else name): value for name, value in evaluation.scores.items()}
    own = {name: getattr(evaluation, name) for name in ("train_loss", "learning_rate", "epoch")}
    return Point(scores | own, evaluation.step, evaluation.at)

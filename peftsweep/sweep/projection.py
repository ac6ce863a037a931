"""What MLflow shall hold of a study: its own run and a run for each trial, told from what the study has stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from peftsweep.engine import Evaluation
from peftsweep.errors import StudyBusyError
from peftsweep.folders import inside
from peftsweep.report import is_over, moments, ranked
from peftsweep.sweep import artifacts
from peftsweep.sweep.seeds import OF, REPLICATE
from peftsweep.tracking import ABOVE, KEY, Outcome, Parent, Past, Point, Tracker, now

SPOOL = ".mlflow"  # in the folder of the study's artifacts
NAMES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class Projection:
    """The study is the truth: what is told comes from it, so that any process can tell what another one could not.

    Args:
        folder: of the study's artifacts. This process has the study's lease: what waits for MLflow in there is its own.

    Attributes:
        opened: whether MLflow has been told of this run.
    """

    def __init__(self, study: optuna.Study, tracker: Tracker, folder: Path) -> None:
        self.study, self.tracker, self.folder = study, tracker, folder
        tracker.spool_to(inside(folder, folder / SPOOL))
        self.opened = False

    @property
    def is_behind(self) -> bool:
        """Whether the last process died, or lost sight of MLflow, before everything was written there; or the study has
        changed since."""
        return self.study.user_attrs.get("mlflow_level") is False

    def outdate(self) -> None:
        """The study has changed: what MLflow was told of it as a whole is to be told anew."""
        self.study.set_user_attr("mlflow_level", False)

    def open(self, *, whole: bool = False) -> None:
        """Begin or go on with the study's runs, and end those that a killed process left running.

        Args:
            whole: look at every point and artifact of trials that have ended there as they did here, too; as is done
                anyway after an update was lost for good.
        """
        if "began" not in self.study.user_attrs:  # a study of an earlier version did with its first trial
            known = [began for began, _ in map(moments, self._trials()) if began is not None]
            self.study.set_user_attr("began", min(known, default=now()))
        self.opened = True
        self.study.set_user_attr("mlflow_level", False)
        self.tracker.open_study(self._parent())
        self.tracker.settle(self._pasts(), whole=whole or self.study.user_attrs.get("mlflow_lost", False))

    def is_there(self, total: int) -> bool:
        """Whether MLflow holds all of it, as the study says; it is asked, and told nothing.

        Args:
            total: trials that the study is to have in all.

        Raises:
            TrackingError: it does not answer.
        """
        return self.tracker.holds(self._parent(), self._whole(total), self._pasts()) and not self.is_behind

    def _parent(self) -> Parent:
        attrs = self.study.user_attrs
        planned = {key: value for key, value in attrs.get("memory", {}).items() if key == "planned_bytes"}
        above = {ABOVE: attrs["retrain_of"]} if "retrain_of" in attrs else {}
        return Parent(
            self.study.study_name,
            attrs["experiment"],
            params=attrs.get("described", {}) | planned,
            tags=self._tags({}) | {KEY: attrs["key"]} | above,
            known=attrs.get("mlflow_runs", {}),
            began=attrs.get("began"),
        )

    def begin(self, trial: FrozenTrial) -> None:
        """Begin a trial's run, or go on with it; of its evaluations so far, those that are missing there."""
        own = trial.user_attrs
        began, _ = moments(trial)
        self.tracker.start_trial(trial.number, params=self._params(own), tags=self._tags(own), at=began)
        for evaluation in own.get("evaluations", []):
            self.evaluated(trial.number, evaluation)

    def evaluated(self, number: int, evaluation: Mapping[str, Any]) -> None:
        """An evaluation as the study has it."""
        point = _point(evaluation)
        self.tracker.log(number, point.metrics, point.step, point.at)

    def end(self, trial: FrozenTrial) -> None:
        self.tracker.end_trial(trial.number, self._outcome(trial), moments(trial)[1])

    def note(self) -> None:
        """Keep in the study how far the writer is: MLflow's run ids, and whether an update was lost for good."""
        ids = self.tracker.run_ids
        if ids and ids != self.study.user_attrs.get("mlflow_runs"):
            self.study.set_user_attr("mlflow_runs", ids)
        if self.tracker.lost and not self.study.user_attrs.get("mlflow_lost"):
            self.study.set_user_attr("mlflow_lost", True)

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
        if self.opened and self.tracker.level:
            for key, value in {"mlflow_lost": False, "mlflow_level": True}.items():
                if self.study.user_attrs.get(key, False) is not value:
                    self.study.set_user_attr(key, value)

    def _whole(self, total: int) -> Outcome:
        """The study's own outcome, as it is now."""
        attrs = self.study.user_attrs
        trials = self._trials()
        best = ranked(trials)[:1]
        scores = {} if not best else {f"best_{name}": score for name, score in best[0].user_attrs["scores"].items()}
        scores = attrs.get("summary", scores)  # of seeds, the best one says nothing
        test = {f"test_{name}": score for name, score in attrs.get("test", {}).get("scores", {}).items()}
        peak = {key: float(value) for key, value in attrs.get("memory", {}).items() if key == "peak_bytes"}
        metrics = scores | test | peak
        file = self.folder / artifacts.STUDY
        return Outcome(
            "complete" if is_over(trials, total) else "interrupted",
            metrics={name: value for name, value in metrics.items() if value is not None},  # one seed has no deviation
            artifacts={f"{self.study.study_name}.yaml": file} if file.is_file() else {},  # no base, no file yet
        )

    def _latest(self) -> int:
        """The latest moment that the study knows of. Its own run ends then, so that one made anew ends no later."""
        latest = int(self.study.user_attrs["began"])
        for trial in self._trials():
            evaluated = [evaluation.get("at") for evaluation in trial.user_attrs.get("evaluations", [])]
            latest = max(latest, *(at or 0 for at in (*moments(trial), *evaluated)))
        return latest

    def _params(self, own: Mapping[str, Any]) -> dict[str, Any]:
        return {**own.get("params", {}), "seed": own.get("seed"), **self.study.user_attrs.get("described", {})}

    def _pasts(self) -> dict[int, Past]:
        return {t.number: self._past(t) for t in self._trials() if t.state != TrialState.WAITING}

    def _past(self, trial: FrozenTrial) -> Past:
        curve = [_point(evaluation) for evaluation in trial.user_attrs.get("evaluations", [])]
        own = trial.user_attrs
        return Past(self._params(own), self._tags(own), curve, self._outcome(trial), *moments(trial))

    def _outcome(self, trial: FrozenTrial) -> Outcome:
        """Of a trial that is over, or was when its process died."""
        own = trial.user_attrs
        if not trial.state.is_finished():
            return Outcome("interrupted")
        scores = {f"best_{name}": score for name, score in own.get("scores", {}).items()}
        return Outcome(
            NAMES[trial.state],
            str(own.get("reason", "")),
            metrics=scores | ({"seconds": own["seconds"]} if "seconds" in own else {}),
            artifacts=artifacts.files(self.folder, trial.number) if trial.state == TrialState.COMPLETE else {},
        )

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _tags(self, own: Mapping[str, Any]) -> dict[str, str]:
        """Of the study's own run, or of a trial with these attributes."""
        config = self.study.user_attrs["config"]
        tags = {"peftsweep.method": config["method"], "peftsweep.model": config["model"]["id"]}
        return tags | {f"peftsweep.{name}": str(own[name]) for name in (OF, REPLICATE) if name in own}


def stored(evaluation: Evaluation, before: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An evaluation as the study keeps it: with the time it was made at, in milliseconds since 1970.

    Args:
        before: those that the study has. One made again, after a process died, keeps the time of the first.
    """
    at = before[evaluation.index - 1].get("at") if evaluation.index <= len(before) else now()
    return {**asdict(evaluation), "at": at}


def _point(evaluation: Mapping[str, Any]) -> Point:
    """A stored evaluation as MLflow's metrics."""
    scores = {("validation_loss" if name == "loss" else name): value for name, value in evaluation["scores"].items()}
    own = {name: evaluation[name] for name in ("train_loss", "learning_rate", "epoch")}
    return Point(scores | own, evaluation["step"], evaluation.get("at"))

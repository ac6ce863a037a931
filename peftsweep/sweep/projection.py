"""What MLflow shall hold of a study: its own run and a run for each trial, told from what the study has stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from peftsweep.engine import Evaluation
from peftsweep.report import ranked
from peftsweep.sweep import artifacts
from peftsweep.tracking import Outcome, Past, Tracker

NAMES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class Projection:
    """The study is the truth: what is told comes from it, so that any process can tell what another one could not.

    Args:
        folder: of the study's artifacts.

    Attributes:
        opened: whether MLflow has been told of this run.
        final: metrics of the study's own run, besides its best scores.
    """

    def __init__(self, study: optuna.Study, tracker: Tracker, folder: Path) -> None:
        self.study, self.tracker, self.folder = study, tracker, folder
        self.opened = False
        self.final: dict[str, float] = {}

    @property
    def is_behind(self) -> bool:
        """Whether the last process died, or lost sight of MLflow, before everything was written there."""
        return self.study.user_attrs.get("mlflow_level") is False

    def open(self, params: Mapping[str, Any] | None = None, *, whole: bool = False) -> None:
        """Begin or go on with the study's runs, and end those that a killed process left running.

        Args:
            params: of this process alone.
            whole: look through trials point by point that have ended there as they did here, too.
        """
        self.opened = True
        self.study.set_user_attr("mlflow_level", False)
        self.tracker.open_study(**self._own(params or {}))
        self.tracker.settle(self._pasts(), whole=whole)

    def is_there(self) -> bool:
        """Whether MLflow holds all of it, as the study says; it is asked, and told nothing.

        Raises:
            TrackingError: it does not answer.
        """
        return not self.is_behind and self.tracker.holds(self._pasts(), **self._own({}))

    def _own(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The study's own run."""
        attrs = self.study.user_attrs
        return {
            "name": self.study.study_name,
            "experiment": attrs["experiment"],
            "params": {**attrs.get("described", {}), **params},
            "tags": self._tags() | {"peftsweep.study_key": attrs["key"]},
            "known": attrs.get("mlflow_runs", {}),
        }

    def begin(self, number: int, own: Mapping[str, Any]) -> None:
        """Begin a trial's run, or go on with it; of its evaluations so far, those that are missing there."""
        self.tracker.start_trial(number, params=self._params(own), tags=self._tags())
        for evaluation in own.get("evaluations", []):
            self.evaluated(number, Evaluation(**evaluation))

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        self.tracker.log(number, metrics(evaluation), evaluation.step)

    def end(self, trial: FrozenTrial) -> None:
        self.tracker.end_trial(trial.number, self._outcome(trial))

    def note_runs(self) -> None:
        """Keep MLflow's run ids in the study, as far as the writer has made them."""
        ids = self.tracker.run_ids
        if ids and ids != self.study.user_attrs.get("mlflow_runs"):
            self.study.set_user_attr("mlflow_runs", ids)

    def close(self, running: Iterable[int], total: int, timeout: float = 60) -> None:
        """End what MLflow still believes to be running, and remember its run ids.

        Args:
            running: trials that go on with the next run.
            total: trials that the study is to have in all.
            timeout: seconds to wait until all is written.
        """
        try:
            if self.opened:
                self._end(running, total)
        finally:
            self.tracker.close(timeout)
        self.note_runs()
        if self.opened and self.tracker.level:
            self.study.set_user_attr("mlflow_level", True)

    def _end(self, running: Iterable[int], total: int) -> None:
        for number in running:
            self.tracker.end_trial(number, Outcome("interrupted", "stopped; goes on with the next run"))
        test = self.study.user_attrs.get("test", {}).get("scores", {})
        begun = [trial for trial in self._trials() if trial.state != TrialState.WAITING]
        over = len(begun) >= total and all(trial.state.is_finished() for trial in begun)
        best = ranked(begun)[:1]
        scores = {} if not best else {f"best_{name}": score for name, score in best[0].user_attrs["scores"].items()}
        self.tracker.end_study(
            Outcome(
                "complete" if over else "interrupted",
                metrics=scores | {f"test_{name}": score for name, score in test.items()} | self.final,
                artifacts={f"{self.study.study_name}.yaml": self.folder / artifacts.STUDY},
            )
        )

    def _params(self, own: Mapping[str, Any]) -> dict[str, Any]:
        return {**own.get("params", {}), "seed": own.get("seed"), **self.study.user_attrs.get("described", {})}

    def _pasts(self) -> dict[int, Past]:
        return {t.number: self._past(t) for t in self._trials() if t.state != TrialState.WAITING}

    def _past(self, trial: FrozenTrial) -> Past:
        evaluations = [Evaluation(**evaluation) for evaluation in trial.user_attrs.get("evaluations", [])]
        curves = [(metrics(evaluation), evaluation.step) for evaluation in evaluations]
        times = (_milliseconds(trial.datetime_start), _milliseconds(trial.datetime_complete))
        return Past(self._params(trial.user_attrs), self._tags(), curves, self._outcome(trial), *times)

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

    def _tags(self) -> dict[str, str]:
        config = self.study.user_attrs["config"]
        return {"peftsweep.method": config["method"], "peftsweep.model": config["model"]["id"]}


def _milliseconds(time: datetime | None) -> int | None:
    return None if time is None else int(1000 * time.timestamp())


def metrics(evaluation: Evaluation) -> dict[str, float]:
    """An evaluation as MLflow's metrics."""
    scores = {("validation_loss" if name == "loss" else name): value for name, value in evaluation.scores.items()}
    return scores | {
        "train_loss": evaluation.train_loss,
        "learning_rate": evaluation.learning_rate,
        "epoch": evaluation.epoch,
    }

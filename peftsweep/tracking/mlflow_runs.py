"""How is a study written to MLflow? As one run for the study, and one nested run for each trial."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftsweep.errors import TrackingError
from peftsweep.safe_text.secrets import masked
from peftsweep.system.names import shorten_name
from peftsweep.tracking import comparison_run
from peftsweep.tracking.in_sync import IN_MLFLOW, is_in_sync
from peftsweep.tracking.locations import artifact_root, check, is_server
from peftsweep.tracking.mlflow_connection import Connection, is_final
from peftsweep.tracking.mlflow_logs import quiet
from peftsweep.tracking.mlflow_search import keep_one, study_runs, trial_runs
from peftsweep.tracking.mlflow_updates import describe, log_points, terminate
from peftsweep.tracking.run_names import run_name, trial_name
from peftsweep.tracking.sink import (
    KEY,
    PARENT,
    RETRAIN_OF,
    BadAnswerError,
    Outcome,
    Point,
    StudySnapshot,
    TrialSnapshot,
    is_valid_id,
    now,
)
from peftsweep.trial_state import TrialState

if TYPE_CHECKING:
    from mlflow.entities import Run

    from peftsweep.tracking.mlflow_client import Client

NOT_ALLOWED = ("PERMISSION_DENIED", "UNAUTHENTICATED")  # errors that do not mean that a run is gone
KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI shows training runs, not traces of chats


@dataclass
class KnownRun:
    """A run that the study has. MLflow may not have it yet.

    Attributes:
        begun: the run as MLflow had it when this process started or continued it.
        requested: MLflow was asked to create it; the answer may have been lost.
        resumed: an earlier process created it.
        steps: steps that the run has already, by metric.
    """

    key: str
    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    started: int
    begun: Run | None = None
    requested: bool = False
    resumed: bool = False
    steps: dict[str, set[int]] = field(default_factory=dict)
    over: bool = False


class MlflowRuns:
    """MLflow as a `Sink`. Only the writer's thread uses it, except for `ids`.

    Args:
        uri: an SQLite URL, or the address of an MLflow server.
    """

    name = "MLflow"

    def __init__(self, uri: str) -> None:
        check(uri)
        self.address = masked(uri)
        self.artifacts = None if is_server(uri) else artifact_root(uri)
        self.ids: dict[str, str] = {}
        self.asked = -math.inf
        self.abandoned = False
        self._runs: dict[str, KnownRun] = {}
        self._children: dict[str, Run] = {}  # made by an earlier process
        self._experiment = ""
        self._connection = Connection(uri)
        self._experiments: dict[str, str] = {}  # ids by name

    def open(self, study: StudySnapshot, at: int) -> None:
        self._know(study, at)
        self._begin(self._runs[PARENT])

    def catch_up(self, number: int, trial: TrialSnapshot, at: int, whole: bool = False) -> None:
        self._begin(self._runs[PARENT])
        key = str(number)
        child = self._children.get(key)
        if is_in_sync(self._client(), child, trial, files=whole, points=whole):
            return
        if trial.outcome.state != TrialState.STOPPED:
            began, ended = trial.began or at, trial.ended or at
            self.start(key, trial.name or trial_name(number), trial.params, trial.tags, began)
            self.log(key, [replace(point, at=point.at or ended) for point in trial.curve])
            self.end(key, trial.outcome, ended)
        elif child is not None:
            self._end(child, trial.outcome, at, trial.name or trial_name(number))

    def has_all(self, study: StudySnapshot, outcome: Outcome, trials: Mapping[int, TrialSnapshot]) -> bool:
        self._know(study, now())
        if not self._has_experiment():
            return False
        run = self._find(PARENT)
        if run is None or not is_in_sync(self._client(), run, TrialSnapshot({}, {}, [], outcome), files=True):
            return False
        if run.data.tags.get("mlflow.parentRunId") != self._run_above(self._runs[PARENT]):
            return False
        children = trial_runs(self._client, run)
        own = self._study_runs(self._runs[PARENT].tags.get(KEY))
        if any(len(same) > 1 for same in [own, *children.values()]):
            return False
        self.ids = {PARENT: run.info.run_id} | {key: same[0].info.run_id for key, same in children.items()}
        return all(
            is_in_sync(self._client(), children.get(str(number), [None])[0], trial, files=True, points=True)
            for number, trial in trials.items()
        )

    def _know(self, study: StudySnapshot, at: int) -> None:
        self.ids.update({key: run_id for key, run_id in study.known.items() if is_valid_id(run_id)})
        self._experiment = study.data
        self._runs[PARENT] = KnownRun(PARENT, study.name, study.params, study.tags, at)

    def start(self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str], at: int) -> None:
        run = self._runs.get(key)
        if run is None or run.over:  # else this is a second try, which must know what the first one requested
            self._runs[key] = run = KnownRun(key, name, params, tags, at)
        self._begin(run)

    def log(self, key: str, points: Sequence[Point]) -> None:
        run = self._runs[key]
        run_id = self._begin(run)
        new, seen = list[Point](), set[tuple[str, int]]()
        for point in points:
            there = [
                name for name in point.metrics if point.step in self._steps(run, name) or (name, point.step) in seen
            ]
            new.append(replace(point, metrics={k: v for k, v in point.metrics.items() if k not in there}))
            seen |= {(name, point.step) for name in point.metrics}
        log_points(self._client, run_id, new)
        for point in new:
            for name in point.metrics:
                run.steps[name].add(point.step)

    def end(self, key: str, outcome: Outcome, at: int) -> None:
        run = self._runs[key]
        self._begin(run)
        assert run.begun is not None
        self._end(run.begun, outcome, at, run.name)
        run.over = True

    def _end(self, found: Run, outcome: Outcome, at: int, name: str) -> None:
        run_id, before = found.info.run_id, found.data.metrics
        new = {name: value for name, value in outcome.metrics.items() if name not in before}
        changed = {name: value for name, value in outcome.metrics.items() if before.get(name, value) != value}
        # with the time of the first value, MLflow would show the higher of the two
        log_points(self._client, run_id, [Point(new, 0, at), Point(changed, 0, now())])
        try:
            for place, source in outcome.artifacts.items():
                self._upload(run_id, place, source)
        finally:  # a full disk must not leave the run marked as running
            if found.info.run_name != (name := run_name(name, outcome.state)):
                self._client().update_run(run_id, name=name)
            terminate(self._client, run_id, outcome.state, outcome.reason, at)

    def _upload(self, run_id: str, place: str, source: Path) -> None:
        """Upload a file or a folder, unless it was deleted meanwhile."""
        client = self._client()
        self.asked = math.inf
        if source.is_dir():
            client.log_artifacts(run_id, str(source), place)
        elif source.is_file():
            folder = Path(place).parent.as_posix()
            client.log_artifact(run_id, str(source), None if folder == "." else folder)

    def store_page(self, data: str, page: Path, at: int) -> None:
        self._experiment = data
        run = comparison_run.get_or_create(self._client(), self._experiment_id(), at)
        run_id = run.info.run_id
        self._upload(run_id, page.name, page)
        self._client().set_tag(run_id, comparison_run.time_tag(page.name), str(at))
        self._client().set_terminated(run_id, "FINISHED", max(at, run.info.start_time))

    def has_page(self, data: str, name: str, at: int) -> bool:
        self._experiment = data
        if not self._has_experiment():
            return False
        found = comparison_run.runs(self._client(), self._experiment_id())
        return len(found) == 1 and comparison_run.has_page(self._client(), found[0], name, at)

    def counts(self) -> tuple[int, int]:
        begun = [run for run in self._runs.values() if run.begun is not None]
        return sum(run.requested for run in begun), sum(run.resumed for run in begun)

    def end_all(self) -> None:
        for key in sorted(self._runs, key=PARENT.__eq__):  # the study's own run last
            if not self._runs[key].over and self._runs[key].begun is not None:
                self.end(key, Outcome(TrialState.STOPPED), now())

    def ping(self) -> None:
        self._connection.client().get_experiment_by_name(self._experiment)

    def is_final(self, error: BaseException) -> bool:
        return is_final(error)

    def quiet(self) -> AbstractContextManager[None]:
        return quiet()

    def _client(self) -> Client:
        if self.abandoned:
            raise TrackingError("the tracker was abandoned")
        self.asked = time.monotonic()
        return self._connection.client()

    def _has_experiment(self) -> bool:
        """Whether the experiment exists. It is not created."""
        found = self._client().get_experiment_by_name(self._experiment)
        if found is None or found.lifecycle_stage == "deleted":
            return False
        self._experiments[self._experiment] = found.experiment_id
        return True

    def _experiment_id(self) -> str:
        """The experiment's id. The experiment is created if it does not exist."""
        name = self._experiment
        if name not in self._experiments:
            self._experiments[name] = self._found_experiment(name) or self._made_experiment(name)
        return self._experiments[name]

    def _found_experiment(self, name: str) -> str | None:
        client = self._client()
        found = client.get_experiment_by_name(name)
        if found is None:
            return None
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _made_experiment(self, name: str) -> str:
        folder = shorten_name(re.sub(r"\W+", "-", name).strip("-") or "study")
        location = None if self.artifacts is None else (self.artifacts / folder).as_uri()
        try:
            return self._client().create_experiment(name, location, KIND)
        except Exception as error:
            if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                raise
            found = self._found_experiment(name)  # another study of the same data was faster
            if found is None:
                raise
            return found

    def _begin(self, run: KnownRun) -> str:
        """Start the run, or continue that of an earlier process; returns its id."""
        if run.begun is not None:
            return self.ids[run.key]
        tags = dict(run.tags) | {"peftsweep.state": IN_MLFLOW[TrialState.RUNNING].tag}
        if run.key != PARENT:
            tags |= {"mlflow.parentRunId": self._begin(self._runs[PARENT]), "peftsweep.trial": run.key}
        elif (above := self._run_above(run)) is not None:
            tags |= {"mlflow.parentRunId": above}
        client, found = self._client(), self._find(run.key)
        if found is None:
            if run.key == PARENT:  # the store was wiped, and the trials' runs with it
                self.ids.clear()
            run.requested = True
            found = client.create_run(self._experiment_id(), run.started, tags, run.name)
            if found.info.run_id in self.ids.values():
                raise BadAnswerError("its answer is a run that it made before")
            self.ids[run.key] = found.info.run_id
        else:
            run.resumed = True
            client.update_run(found.info.run_id, status=IN_MLFLOW[TrialState.RUNNING].status, name=run.name)
            if "peftsweep.reason" in found.data.tags:
                client.delete_tag(found.info.run_id, "peftsweep.reason")
            if run.key == PARENT:
                keep_one(self._client, self._study_runs(run.tags.get(KEY)), found)
                self._children = {
                    key: keep_one(self._client, same) for key, same in trial_runs(self._client, found).items()
                }
        describe(self._client, found, run.params, tags)
        run.begun = found
        return self.ids[run.key]

    def _find(self, key: str) -> Run | None:
        """The run in the store, if an earlier process or an earlier try made it."""
        if key in self._children:
            self.ids[key] = self._children[key].info.run_id
        if key not in self.ids:
            return self._by_key() if key == PARENT else self._by_parent(key)
        try:
            found = self._client().get_run(self.ids[key])
        except Exception as error:
            if not is_final(error) or getattr(error, "error_code", "") in NOT_ALLOWED:
                raise
        else:
            if found.info.lifecycle_stage == "active" and found.info.experiment_id == self._experiment_id():
                return found
        del self.ids[key]  # the id may belong to another store
        return self._by_key() if key == PARENT else self._by_parent(key)

    def _by_key(self) -> Run | None:
        """The study's own run if its id was never stored, because the process was killed."""
        found = self._study_runs(self._runs[PARENT].tags.get(KEY))
        if not found:
            return None
        self.ids[PARENT] = found[0].info.run_id
        return found[0]

    def _run_above(self, run: KnownRun) -> str | None:
        """The id of the run that a study's own run is nested under: seeds' under that of their study."""
        found = self._study_runs(run.tags.get(RETRAIN_OF))
        return str(found[0].info.run_id) if found else None

    def _study_runs(self, key: str | None) -> list[Run]:
        return [] if key is None else study_runs(self._client, self._experiment_id(), key)

    def _by_parent(self, key: str) -> Run | None:
        """A trial's run that this process requested without getting an answer."""
        parent = self._runs[PARENT].begun
        if parent is None or not self._runs[key].requested:
            return None
        same = trial_runs(self._client, parent).get(key)
        if same is None:
            return None
        self.ids[key] = same[0].info.run_id
        return same[0]

    def _steps(self, run: KnownRun, metric: str) -> set[int]:
        if metric not in run.steps:
            assert run.begun is not None
            history = self._client().get_metric_history(run.begun.info.run_id, metric) if run.resumed else []
            run.steps[metric] = {point.step for point in history}
        return run.steps[metric]

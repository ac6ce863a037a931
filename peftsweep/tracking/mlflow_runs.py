"""The study's runs in MLflow."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftsweep.errors import TrackingError
from peftsweep.system.names import fitting
from peftsweep.tracking import comparison_run
from peftsweep.tracking.in_sync import is_level
from peftsweep.tracking.locations import artifact_root, is_server
from peftsweep.tracking.mlflow_connection import Connection, refused
from peftsweep.tracking.sink import STATUS, NonsenseError, Outcome, Parent, Past, is_id, named

if TYPE_CHECKING:
    from mlflow.entities import Run

    from peftsweep.tracking.mlflow_client import Client

NOT_ALLOWED = ("PERMISSION_DENIED", "UNAUTHENTICATED")  # refusals that do not mean that a run is gone
PARENT = "parent"
KEY = "peftsweep.study_key"  # the tag by which a parent run is found whose id was never stored
ABOVE = "peftsweep.retrain_of"  # the tag with the key of the study under whose run this study's parent run is nested
KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI shows training runs, not traces of chats
PARAM_LIMIT, TAG_LIMIT, BATCH_LIMIT = 6000, 8000, 100  # MLflow's own


@dataclass
class StudyRun:
    """A run as the study knows it; MLflow may not have heard of it yet."""

    key: str
    name: str
    params: dict[str, Any]
    tags: dict[str, str]
    started: int
    begun: Run | None = None  # as MLflow had it when this process began it or went on with it
    asked_for: bool = False  # MLflow was asked to make it; the answer may have been lost on the way
    resumed: bool = False
    steps: dict[str, set[int]] = field(default_factory=dict)  # that the run has already, by metric
    over: bool = False


class Runs:
    """The runs in MLflow. Used by the writer's thread alone, save for `ids`.

    Every method may be called again after it failed half-way: what is there already is found, not made twice.

    Attributes:
        asked: when MLflow was last asked for something, by the monotonic clock; infinite while a file goes there.
        abandoned: ask for nothing more, in the middle of an update too: the next process may be at it.
    """

    def __init__(self, uri: str) -> None:
        self.artifacts = None if is_server(uri) else artifact_root(uri)
        self.ids: dict[str, str] = {}
        self.asked = -math.inf
        self.abandoned = False
        self._runs: dict[str, StudyRun] = {}
        self._children: dict[str, Run] = {}  # of an earlier process
        self._experiment = ""
        self._connection = Connection(uri)
        self._experiments: dict[str, str] = {}  # ids by name

    def open(self, parent: Parent, at: int) -> None:
        self._know(parent, at)
        self._begin(self._runs[PARENT])

    def settle(self, number: int, past: Past, at: int, whole: bool = False) -> None:
        """Make the run of a trial of an earlier process what the study says it is; one that is that stays."""
        self._begin(self._runs[PARENT])
        key = str(number)
        child = self._children.get(key)
        if is_level(self._client(), child, past, files=whole, points=whole):
            return
        if past.outcome.state != "interrupted":
            began, ended = past.began or at, past.ended or at
            self.start(StudyRun(key, past.name or trial_name(number), dict(past.params), dict(past.tags), began))
            for point in past.curve:
                self.log(key, point.metrics, point.step, point.at or ended)
            self.end(key, past.outcome, ended)
        elif child is not None:
            self._end(child, past.outcome, at, past.name or trial_name(number))

    def holds(self, parent: Parent, outcome: Outcome, trials: Mapping[int, Past]) -> bool:
        """Whether all that `open`, `settle` and `end` would write is there; nothing is written."""
        self._know(parent, now())
        if not self._has_experiment():
            return False
        run = self._find(PARENT)
        if run is None or not is_level(self._client(), run, Past({}, {}, [], outcome), files=True):
            return False
        if run.data.tags.get("mlflow.parentRunId") != self._above(self._runs[PARENT]):
            return False
        children = self._search_children(run)
        if any(len(same) > 1 for same in [self._with_key(self._runs[PARENT].tags.get(KEY)), *children.values()]):
            return False
        self.ids = {PARENT: run.info.run_id} | {key: same[0].info.run_id for key, same in children.items()}
        return all(
            is_level(self._client(), children.get(str(number), [None])[0], past, files=True, points=True)
            for number, past in trials.items()
        )

    def _know(self, parent: Parent, at: int) -> None:
        self.ids.update({key: run_id for key, run_id in parent.known.items() if is_id(run_id)})
        self._experiment = parent.experiment
        self._runs[PARENT] = StudyRun(PARENT, parent.name, dict(parent.params), dict(parent.tags), at)

    def start(self, run: StudyRun) -> None:
        before = self._runs.get(run.key)
        if before is None or before.over:  # else it is tried again: what it was asked for must not be forgotten
            self._runs[run.key] = before = run
        self._begin(before)

    def log(self, key: str, metrics: Mapping[str, float], step: int, at: int) -> None:
        run = self._runs[key]
        run_id = self._begin(run)
        new = {name: value for name, value in metrics.items() if step not in self._steps(run, name)}
        self._points(run_id, new, step, at)
        for name in new:
            run.steps[name].add(step)

    def end(self, key: str, outcome: Outcome, at: int) -> None:
        run = self._runs[key]
        self._begin(run)
        assert run.begun is not None
        self._end(run.begun, outcome, at, run.name)
        run.over = True

    def _end(self, found: Run, outcome: Outcome, at: int, name: str) -> None:
        run_id, before = found.info.run_id, found.data.metrics
        self._points(run_id, {k: v for k, v in outcome.metrics.items() if k not in before}, 0, at)
        changed = {k: v for k, v in outcome.metrics.items() if before.get(k, v) != v}
        self._points(run_id, changed, 0, now())  # of two values of one moment, MLflow would show the higher
        try:
            for place, source in outcome.artifacts.items():
                self._upload(run_id, place, source)
        finally:  # a full disk must not leave the run going for ever
            if found.info.run_name != (name := named(name, outcome.state)):
                self._client().update_run(run_id, name=name)
            self._terminate(run_id, outcome.state, outcome.reason, at)

    def _upload(self, run_id: str, place: str, source: Path) -> None:
        """A file or a folder, or nothing where it has gone meanwhile."""
        client = self._client()
        self.asked = math.inf
        if source.is_dir():
            client.log_artifacts(run_id, str(source), place)
        elif source.is_file():
            folder = Path(place).parent.as_posix()
            client.log_artifact(run_id, str(source), None if folder == "." else folder)

    def compare(self, experiment: str, page: Path, at: int) -> None:
        """Keep a page that compares the experiment's studies, under its file's name.

        Args:
            at: when it was drawn.
        """
        self._experiment = experiment
        run = comparison_run.only(self._client(), self._experiment_id(), at)
        run_id = run.info.run_id
        self._upload(run_id, page.name, page)
        self._client().set_tag(run_id, comparison_run.drawn(page.name), str(at))
        self._client().set_terminated(run_id, "FINISHED", max(at, run.info.start_time))

    def compares(self, experiment: str, name: str, at: int) -> bool:
        """Whether the experiment's only comparison run holds a page of this name no older than that; nothing is
        written."""
        self._experiment = experiment
        if not self._has_experiment():
            return False
        found = comparison_run.runs(self._client(), self._experiment_id())
        return len(found) == 1 and comparison_run.is_level(self._client(), found[0], name, at)

    def counts(self) -> tuple[int, int]:
        """How many runs were made, and how many that were there were written to."""
        begun = [run for run in self._runs.values() if run.begun is not None]
        return sum(run.asked_for for run in begun), sum(run.resumed for run in begun)

    def end_rest(self) -> None:
        """End what this process began and nobody ended; the parent last."""
        for key in sorted(self._runs, key=PARENT.__eq__):
            if not self._runs[key].over and self._runs[key].begun is not None:
                self.end(key, Outcome("interrupted"), now())

    def ping(self) -> None:
        self._connection.client().get_experiment_by_name(self._experiment)

    def _client(self) -> Client:
        if self.abandoned:
            raise TrackingError("given up")
        self.asked = time.monotonic()
        return self._connection.client()

    def _has_experiment(self) -> bool:
        """Whether the experiment is there; it is not made."""
        found = self._client().get_experiment_by_name(self._experiment)
        if found is None or found.lifecycle_stage == "deleted":
            return False
        self._experiments[self._experiment] = found.experiment_id
        return True

    def _experiment_id(self) -> str:
        """Of the experiment, which is made if it is not there."""
        name = self._experiment
        if name not in self._experiments:
            client = self._client()
            found = client.get_experiment_by_name(name)
            if found is None:
                folder = fitting(re.sub(r"\W+", "-", name).strip("-") or "study")
                location = None if self.artifacts is None else (self.artifacts / folder).as_uri()
                self._experiments[name] = client.create_experiment(name, location, KIND)
            else:
                if found.lifecycle_stage == "deleted":
                    client.restore_experiment(found.experiment_id)
                self._experiments[name] = found.experiment_id
        return self._experiments[name]

    def _begin(self, run: StudyRun) -> str:
        """The run's id; a run that is not there yet is made, one of an earlier process goes on."""
        if run.begun is not None:
            return self.ids[run.key]
        tags = run.tags | {"peftsweep.state": "running"}
        if run.key != PARENT:
            tags |= {"mlflow.parentRunId": self._begin(self._runs[PARENT]), "peftsweep.trial": run.key}
        elif (above := self._above(run)) is not None:
            tags |= {"mlflow.parentRunId": above}
        client, found = self._client(), self._find(run.key)
        if found is None:
            if run.key == PARENT:  # a wiped store: the children went with it
                self.ids.clear()
            run.asked_for = True
            found = client.create_run(self._experiment_id(), run.started, tags, run.name)
            if found.info.run_id in self.ids.values():
                raise NonsenseError("its answer is a run that it made before")
            self.ids[run.key] = found.info.run_id
        else:
            run.resumed = True
            client.update_run(found.info.run_id, status="RUNNING", name=run.name)
            if "peftsweep.reason" in found.data.tags:
                client.delete_tag(found.info.run_id, "peftsweep.reason")
            if run.key == PARENT:
                self._only(self._with_key(run.tags.get(KEY)), found)
                self._children = {key: self._only(same) for key, same in self._search_children(found).items()}
        self._describe(found, run.params, tags)
        run.begun = found
        return self.ids[run.key]

    def _find(self, key: str) -> Run | None:
        """The run in the store, if an earlier process, or an earlier try, made it."""
        if key in self._children:
            self.ids[key] = self._children[key].info.run_id
        if key not in self.ids:
            return self._by_key() if key == PARENT else self._by_parent(key)
        try:
            found = self._client().get_run(self.ids[key])
        except Exception as error:
            if not refused(error) or getattr(error, "error_code", "") in NOT_ALLOWED:
                raise
        else:
            if found.info.lifecycle_stage == "active" and found.info.experiment_id == self._experiment_id():
                return found
        del self.ids[key]  # it may be one of another store
        return self._by_key() if key == PARENT else self._by_parent(key)

    def _by_key(self) -> Run | None:
        """The parent run whose id nobody noted, such as that of a process that was killed."""
        found = self._with_key(self._runs[PARENT].tags.get(KEY))
        if not found:
            return None
        self.ids[PARENT] = found[0].info.run_id
        return found[0]

    def _above(self, run: StudyRun) -> str | None:
        """The id of the run under which a study's own run is nested: that of a study which was there before."""
        found = self._with_key(run.tags.get(ABOVE))
        return str(found[0].info.run_id) if found else None

    def _with_key(self, key: str | None) -> list[Run]:
        """A study's own run; see `_only`."""
        return [] if key is None else _told_most_first(self._client().tagged(self._experiment_id(), KEY, key))

    def _by_parent(self, key: str) -> Run | None:
        """A trial's run that this process asked for and got no answer."""
        parent = self._runs[PARENT].begun
        if parent is None or not self._runs[key].asked_for:
            return None
        same = self._search_children(parent).get(key)
        if same is None:
            return None
        self.ids[key] = same[0].info.run_id
        return same[0]

    def _search_children(self, parent: Run) -> dict[str, list[Run]]:
        """Trials' runs by number; see `_only`."""
        found: dict[str, list[Run]] = {}
        for run in self._client().tagged(parent.info.experiment_id, "mlflow.parentRunId", parent.info.run_id):
            if "peftsweep.trial" in run.data.tags:
                found.setdefault(run.data.tags["peftsweep.trial"], []).append(run)
        return {key: _told_most_first(same) for key, same in found.items()}

    def _only(self, same: list[Run], kept: Run | None = None) -> Run:
        """Keep one run of those of a study or trial, the one with the most in it, and delete the others. A server makes
        a second one when it answers a request only after the request was given up.

        Args:
            kept: the run to keep in its place.
        """
        kept = kept or same[0]
        for run in same:
            if run.info.run_id != kept.info.run_id:
                below = self._client().tagged(run.info.experiment_id, "mlflow.parentRunId", run.info.run_id)
                for gone in [*below, run]:
                    self._client().delete_run(gone.info.run_id)
        return kept

    def _describe(self, found: Run, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Params and tags. A param cannot change in MLflow: another value becomes a tag."""
        from mlflow.entities import Param, RunTag

        texts = {key: str(value)[:PARAM_LIMIT] for key, value in params.items()}
        there = found.data.params
        changed = {f"param_changed.{k}": text for k, text in texts.items() if there.get(k, text) != text}
        new_params = [Param(key, text) for key, text in texts.items() if key not in there]
        new_tags = [RunTag(k, v[:TAG_LIMIT]) for k, v in (tags | changed).items() if found.data.tags.get(k) != v]
        for first in range(0, max(len(new_params), len(new_tags)), BATCH_LIMIT):
            part = slice(first, first + BATCH_LIMIT)
            self._client().log_batch(found.info.run_id, params=new_params[part], tags=new_tags[part])

    def _steps(self, run: StudyRun, metric: str) -> set[int]:
        if metric not in run.steps:
            assert run.begun is not None
            history = self._client().get_metric_history(run.begun.info.run_id, metric) if run.resumed else []
            run.steps[metric] = {point.step for point in history}
        return run.steps[metric]

    def _points(self, run_id: str, metrics: dict[str, float], step: int, at: int) -> None:
        from mlflow.entities import Metric

        points = [Metric(name, float(value), at, step) for name, value in metrics.items() if math.isfinite(value)]
        if points:
            self._client().log_batch(run_id, metrics=points)

    def _terminate(self, run_id: str, state: str, reason: str, at: int) -> None:
        from mlflow.entities import RunTag

        tags = {"peftsweep.state": state} | ({"peftsweep.reason": reason[:TAG_LIMIT]} if reason else {})
        self._client().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        self._client().set_terminated(run_id, STATUS[state], at)


def _told_most_first(same: Iterable[Run]) -> list[Run]:
    return sorted(same, key=lambda run: (len(run.data.metrics), len(run.data.params)), reverse=True)


def trial_name(number: int) -> str:
    return f"trial-{number:04d}"


def now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)

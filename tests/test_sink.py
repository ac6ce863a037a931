"""A tracker other than MLflow gets everything that MLflow gets."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import peftsweep
from peftsweep.progress import Opened, Silent, SweepStatus, sweep_lines
from peftsweep.storage import StoredStudy, Studies
from peftsweep.sweep import compare, sync
from peftsweep.tracking import Outcome, Point, StudySnapshot, Tracker, TrialSnapshot
from peftsweep.trial_state import TrialState
from tests.studies import Home, home

SPACE = ("learning_rate", "rank")


@dataclass
class Book:
    """What was written to a tracker."""

    names: dict[str, str] = field(default_factory=dict)
    params: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    points: dict[str, list[tuple[int, Mapping[str, float]]]] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    files: dict[str, set[str]] = field(default_factory=dict)
    pages: list[tuple[str, str]] = field(default_factory=list)


class Notebook:
    """A tracker that keeps everything in memory."""

    name, asked, abandoned = "notebook", -math.inf, False

    def __init__(self, address: str, book: Book | None = None) -> None:
        self.address, self.ids, self.book, self.study = address, dict[str, str](), book or Book(), ""

    def open(self, study: StudySnapshot, at: int) -> None:
        self.study = study.name
        self.start("parent", study.name, study.params, study.tags, at)

    def start(self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str], at: int) -> None:
        self.ids[key] = where = f"{self.study}:{key}"
        self.book.names[where], self.book.params[where] = name, params

    def log(self, key: str, points: Sequence[Point]) -> None:
        self.book.points.setdefault(self.ids[key], []).extend((point.step, point.metrics) for point in points)

    def end(self, key: str, outcome: Outcome, at: int) -> None:
        self.book.outcomes[self.ids[key]] = outcome
        self.book.files[self.ids[key]] = {place for place, source in outcome.artifacts.items() if source.exists()}

    def catch_up(self, number: int, trial: TrialSnapshot, at: int, whole: bool = False) -> None:
        if f"{self.study}:{number}" not in self.book.outcomes:
            self.start(str(number), trial.name, trial.params, trial.tags, at)
            self.log(str(number), trial.curve)
            self.end(str(number), trial.outcome, at)

    def has_all(self, study: StudySnapshot, outcome: Outcome, trials: Mapping[int, TrialSnapshot]) -> bool:
        return {f"{study.name}:{key}" for key in ("parent", *trials)} <= self.book.outcomes.keys()

    def store_page(self, data: str, page: Path, at: int) -> None:
        self.book.pages.append((data, page.name))

    def has_page(self, data: str, name: str, at: int) -> bool:
        return (data, name) in self.book.pages

    def counts(self) -> tuple[int, int]:
        return len(self.ids), 0

    def end_all(self) -> None: ...

    def ping(self) -> None: ...

    def is_final(self, error: BaseException) -> bool:
        return True

    def quiet(self) -> AbstractContextManager[None]:
        return nullcontext()


class Heard(Silent):
    """Progress that remembers headers and warnings."""

    def __init__(self) -> None:
        self.header: list[str] = []
        self.warnings: list[str] = []

    def opened(self, what: Opened) -> None:
        self.header.extend(text for _, text in sweep_lines.header(what))

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def here(tmp_path: Path) -> Home:
    return home(tmp_path / "home")


@dataclass(frozen=True)
class Desk:
    """A study that was run and retrained with a notebook as its tracker."""

    place: Home
    study: StoredStudy
    book: Book
    header: list[str]

    def again(self) -> tuple[dict[str, Any], Book]:
        """Arguments that write to a new notebook, and what it holds."""
        book = Book()
        options = {"storage": self.place.storage, "tracking_uri": "notebook://desk"}
        return options | {"sink": partial(Notebook, book=book)}, book


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    place, book, shown = home(tmp_path_factory.mktemp("desk") / "home"), Book(), Heard()
    options = {"tracking_uri": "notebook://desk", "sink": partial(Notebook, book=book), "progress": shown}
    study = place.run(place.study(), **options).study
    peftsweep.retrain(place.folder / "small.yaml", seeds=2, top=1, storage=place.storage, **options)
    return Desk(place, study, book, shown.header)


def assert_whole(book: Book, study: StoredStudy) -> None:
    """The notebook has a study's runs, values, files and ends."""
    name, trials = study.study_name, study.records()
    own = {f"{name}:{key}" for key in ("parent", *(trial.number for trial in trials))}
    assert len(own) > 1 and own == {where for where in book.outcomes if where.rpartition(":")[0] == name}
    assert {book.outcomes[where].state for where in own} == {TrialState.COMPLETE}
    for trial in trials:
        where = f"{name}:{trial.number}"
        logged = [(step, metrics["macro_f1"]) for step, metrics in book.points[where]]
        assert logged == [(each.step, each.scores["macro_f1"]) for each in trial.evaluations] and logged
        assert [book.params[where][key] for key in SPACE] == [trial.params[key] for key in SPACE]
        assert book.outcomes[where].metrics["best_macro_f1"] == trial.scores["macro_f1"]
    assert all("adapter" in book.files[f"{name}:{trial.number}"] for trial in trials)


def seeds_of(desk: Desk) -> StoredStudy:
    found = Studies(desk.place.storage).retrained("small")
    assert found is not None
    return found


def test_run_writes_to_another_tracker_and_names_it(desk: Desk) -> None:
    assert_whole(desk.book, desk.study)
    assert desk.study.mlflow_runs == {key: f"small:{key}" for key in ("parent", "0", "1", "2")}
    assert desk.study.record.in_sync and (desk.study.record.data, "comparison.html") in desk.book.pages
    assert sum(line.endswith("· notebook: notebook://desk") for line in desk.header) == 2  # run's and retrain's
    assert desk.place.runs() == [], "MLflow got something"


def test_retrain_writes_to_another_tracker(desk: Desk) -> None:
    assert_whole(desk.book, seeds_of(desk))
    assert len(seeds_of(desk).records()) == 2
    assert "macro_f1_mean" in desk.book.outcomes["small/retrain:parent"].metrics


def test_compare_writes_to_another_tracker(desk: Desk) -> None:
    options, book = desk.again()
    compare(**options)
    assert book.pages == [(desk.study.record.data, "comparison.html")] and not book.outcomes
    assert desk.place.runs() == [], "MLflow got something"


def test_sync_writes_to_another_tracker_what_it_lacks_and_names_it(desk: Desk) -> None:
    options, book = desk.again()
    notes: list[str] = []
    with Studies(desk.place.storage).lease("small"):
        assert sync(**options, note=notes.append) == {"small": "running"}
    assert notes == ["small: its sweep is running, and writes to notebook itself"] and not book.outcomes
    assert sync(**options) == {"small": "written"}
    assert_whole(book, desk.study)
    assert_whole(book, seeds_of(desk))
    assert book.pages == [(desk.study.record.data, "comparison.html")]
    assert sync(**options) == {"small": "in sync"}
    assert desk.place.runs() == [], "MLflow got something"


def test_a_tracker_that_fails_is_named_and_does_not_fail_the_sweep(here: Home) -> None:
    class Torn(Notebook):
        def log(self, key: str, points: Sequence[Point]) -> None:
            raise OSError("the page is torn")

    heard = Heard()
    result = here.run(here.study(), tracking_uri="notebook://desk", sink=Torn, progress=heard)
    assert result.counts["complete"] == 3 and result.study.record.in_sync is False
    assert "notebook at notebook://desk refused an update (the page is torn)" in heard.warnings


class Slow(Notebook):
    """Starts no run before it may, and counts calls."""

    def __init__(self) -> None:
        super().__init__("notebook://slow")
        self.may, self.logged = threading.Event(), list[tuple[str, int]]()

    def start(self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str], at: int) -> None:
        assert self.may.wait(60)
        super().start(key, name, params, tags, at)

    def log(self, key: str, points: Sequence[Point]) -> None:
        self.logged.append((key, len(points)))
        if any(point.metrics == {"refused": 1.0} for point in points):
            raise ValueError("this metric is refused")
        super().log(key, points)


def test_points_of_a_run_that_wait_at_the_same_time_are_written_in_one_call() -> None:
    sink, notes = Slow(), list[str]()
    tracker = Tracker(sink, note=notes.append)
    tracker.open_study(StudySnapshot("one", "data"))
    for number in (0, 1):
        tracker.start_trial(number, params={}, tags={})
    for step in range(5):
        for number in (0, 1):
            tracker.log(number, {"loss": step / 10}, step)
    tracker.end_trial(0, Outcome(TrialState.COMPLETE))
    assert len(tracker._waiting) >= 2 + 10 + 1  # each point counts
    sink.may.set()
    tracker.close()
    assert sink.logged == [("0", 5), ("1", 5)] and tracker.in_sync and notes == []
    assert sink.book.points["one:1"] == [(step, {"loss": step / 10}) for step in range(5)]


def test_of_points_that_wait_together_only_those_are_lost_that_the_tracker_refuses() -> None:
    sink, notes = Slow(), list[str]()
    tracker = Tracker(sink, note=notes.append)
    tracker.open_study(StudySnapshot("one", "data"))
    tracker.start_trial(0, params={}, tags={})
    for step, name in enumerate(["loss", "refused", "loss", "refused", "loss"]):
        tracker.log(0, {name: 1.0}, step)
    sink.may.set()
    tracker.close()
    assert [step for step, _ in sink.book.points["one:0"]] == [0, 2, 4]
    assert tracker.lost == 2 and not tracker.in_sync
    assert notes[-1].startswith("notebook: 2 updates were not written (this metric is refused)")


def test_the_tracker_is_opened_once_the_first_step_is_done(here: Home) -> None:
    class Shown(Heard):
        def step(self, status: SweepStatus) -> None:
            self.warnings.append("a step")

    class Late(Notebook):
        def open(self, study: StudySnapshot, at: int) -> None:
            shown.warn("the tracker is opened")
            super().open(study, at)

    shown, book = Shown(), Book()
    here.run(here.study(), trials=1, sink=partial(Late, book=book), progress=shown)
    assert shown.warnings.index("a step") < shown.warnings.index("the tracker is opened")
    assert book.outcomes["small:0"].state == TrialState.COMPLETE


def test_what_waits_for_a_resting_tracker_is_written_at_the_end() -> None:
    book = Book()
    tracker = Tracker(Notebook("somewhere", book), note=print)
    tracker.rest()
    tracker.open_study(StudySnapshot("one", "data", params={}, tags={}, known={}, began=1))
    tracker.close()
    assert book.names == {"one:parent": "one"}

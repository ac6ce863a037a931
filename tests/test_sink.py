"""A tracker of another kind than MLflow gets what MLflow gets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from peftsweep.progress import Silent
from peftsweep.tracking import Outcome, StudySnapshot, TrialSnapshot
from tests.studies import Home, home

SPACE = ("learning_rate", "rank")


class Notebook:
    """A tracker that keeps everything in memory."""

    name, asked, abandoned = "notebook", -math.inf, False

    def __init__(self, address: str) -> None:
        self.address, self.ids = address, dict[str, str]()
        self.params: dict[str, Mapping[str, Any]] = {}
        self.points: dict[str, list[tuple[int, Mapping[str, float]]]] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.files: dict[str, set[str]] = {}
        self.pages: list[tuple[str, str]] = []

    def open(self, study: StudySnapshot, at: int) -> None:
        self.start("parent", study.name, study.params, study.tags, at)

    def start(self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str], at: int) -> None:
        self.ids[key], self.params[key] = f"page-{key}", params

    def log(self, key: str, metrics: Mapping[str, float], step: int, at: int) -> None:
        self.points.setdefault(key, []).append((step, metrics))

    def end(self, key: str, outcome: Outcome, at: int) -> None:
        self.outcomes[key] = outcome
        self.files[key] = {place for place, source in outcome.artifacts.items() if source.exists()}

    def catch_up(self, number: int, trial: TrialSnapshot, at: int, whole: bool = False) -> None:
        raise AssertionError("a new study has nothing to catch up")

    def has_all(self, study: StudySnapshot, outcome: Outcome, trials: Mapping[int, TrialSnapshot]) -> bool:
        return False

    def store_page(self, experiment: str, page: Path, at: int) -> None:
        self.pages.append((experiment, page.name))

    def has_page(self, experiment: str, name: str, at: int) -> bool:
        return (experiment, name) in self.pages

    def counts(self) -> tuple[int, int]:
        return len(self.ids), 0

    def end_all(self) -> None: ...

    def ping(self) -> None: ...

    def is_final(self, error: BaseException) -> bool:
        return True

    def quiet(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.fixture
def here(tmp_path: Path) -> Home:
    return home(tmp_path / "home")


def test_another_tracker_gets_a_sweep_s_runs_values_and_ends(here: Home) -> None:
    opened: list[Notebook] = []

    def notebook(address: str) -> Notebook:
        opened.append(Notebook(address))
        return opened[-1]

    result = here.run(here.study(), tracking_uri="notebook://desk", sink=notebook)
    (kept,) = opened
    record, trials = result.study.record, result.study.records()
    assert kept.address == "notebook://desk" and kept.ids == result.study.mlflow_runs
    assert kept.ids.keys() == {"parent", "0", "1", "2"} == kept.outcomes.keys()
    for trial in trials:
        key = str(trial.number)
        told = [(step, metrics["macro_f1"]) for step, metrics in kept.points[key]]
        assert told == [(each.step, each.scores["macro_f1"]) for each in trial.evaluations] and told
        assert [kept.params[key][name] for name in SPACE] == [trial.params[name] for name in SPACE]
        assert kept.outcomes[key].metrics["best_macro_f1"] == trial.scores["macro_f1"]
        assert "adapter" in kept.files[key]
    assert {outcome.state for outcome in kept.outcomes.values()} == {"complete"}
    assert kept.pages == [(record.data, "comparison.html")] and record.in_sync
    assert here.runs() == [], "MLflow was not told"


def test_a_tracker_that_fails_is_named_and_does_not_fail_the_sweep(here: Home) -> None:
    class Torn(Notebook):
        def log(self, key: str, metrics: Mapping[str, float], step: int, at: int) -> None:
            raise OSError("the page is torn")

    warned: list[str] = []
    heard = Silent()
    heard.warn = warned.append  # type: ignore[method-assign]
    result = here.run(here.study(), tracking_uri="notebook://desk", sink=Torn, progress=heard)
    assert result.counts["complete"] == 3 and result.study.record.in_sync is False
    assert "notebook at notebook://desk refused an update (the page is torn)" in warned

"""Sweeps whose studies are in PostgreSQL: killed, cut off, moved there from SQLite."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

import peftsweep
from peftsweep.engine import Evaluated, Event, Stop
from peftsweep.errors import StorageError, StudyBusyError
from peftsweep.progress import Silent
from peftsweep.storage import Studies, outages
from peftsweep.sweep import heartbeat, retrain
from peftsweep.sweep.run_study import run_together
from peftsweep.workers import Call
from tests.pools import TurnsPool, at
from tests.postgresql import Server
from tests.studies import GRID, ROOT, Home, home, never_stopped
from tests.test_driving import Heard, run_on, scores
from tests.test_storage import hang_up
from tests.test_sweep import killed_at


@pytest.fixture(scope="module")
def never(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A sweep in SQLite that ran without interruption."""
    return never_stopped(tmp_path_factory.mktemp("never"))


@pytest.fixture
def here(never: Home, tmp_path: Path) -> Home:
    place = home(tmp_path / "home")
    place.study(**GRID, model={"id": str(never.folder / "base")})
    return place


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps write a heartbeat and look for requests all the time."""
    monkeypatch.setattr(heartbeat, "BEAT", 0.0)
    monkeypatch.setattr(heartbeat, "LOOK", 0.0)


def storage(server: Server, place: Home) -> str:
    return f"{server.database()}?artifacts={place.folder}/artifacts"


@pytest.mark.parametrize(
    ("moment", "left"),
    [
        ("peftsweep.sweep.study_judge:StudyJudge.report 6", [TrialState.COMPLETE, TrialState.RUNNING]),
        ("peftsweep.study.artifacts:write 1", [TrialState.RUNNING]),
    ],
    ids=["in its second trial", "before tell"],
)
def test_a_killed_sweep_resumes_in_postgresql_as_in_sqlite(
    never: Home, here: Home, postgresql: Server, moment: str, left: list[TrialState]
) -> None:
    url, study = storage(postgresql, here), here.folder / "small.yaml"
    killed_at(here, moment, study, "--storage", url)
    before = Studies(url).load("small").get_trials()
    assert [trial.state for trial in before] == left
    ours = here.run(study, slots=1, storage=url).study.trials
    theirs = optuna.load_study(study_name="small", storage=never.storage).trials
    assert [(t.state, t.params, t.values) for t in ours] == [(t.state, t.params, t.values) for t in theirs]
    for old, new in zip(before, ours, strict=False):
        assert old.datetime_start == new.datetime_start
        assert not old.state.is_finished() or old == new  # a finished trial is kept and not run again
    assert [here.adapter(n).read_bytes() for n in (0, 1)] == [never.adapter(n).read_bytes() for n in (0, 1)]
    assert [run.info.status for run in here.runs()] == ["FINISHED"] * 3


def test_a_sweep_whose_server_goes_away_ends_with_one_message_and_resumes(here: Home, postgresql: Server) -> None:
    url, study = storage(postgresql, here), here.folder / "small.yaml"
    here.run(study, storage=url, trials=1)
    postgresql.execute("ALTER ROLE sweeper NOLOGIN")
    hang_up(postgresql, url, "%")
    try:
        with pytest.raises(StorageError, match="user log in"):
            here.run(study, storage=url)
    finally:
        postgresql.execute("ALTER ROLE sweeper LOGIN")
    assert here.run(study, storage=url).counts == {"complete": 2}


class Restarted:
    """A server that stops at the n-th evaluations of all, and starts a second later."""

    def __init__(self, server: Server, moments: Sequence[int]) -> None:
        self.server, self.moments, self.seen = server, moments, 0
        self.starting: list[threading.Timer] = []

    def __call__(self, worker: int, events: Sequence[Event]) -> None:
        self.seen += any(isinstance(event, Evaluated) for event in events)
        if self.seen in self.moments:
            self.moments = self.moments[1:]
            self.server.stop()
            self.starting.append(threading.Timer(1.0, self.server.start))
            self.starting[-1].start()


@pytest.mark.usefixtures("eager")
def test_a_server_that_restarts_during_a_sweep_costs_nothing(here: Home, tmp_path: Path, postgresql: Server) -> None:
    study = here.study(train={"epochs": 3, "evals_per_epoch": 1}, search={"trials": 4})
    (undisturbed,) = run_on(2, here, study)
    heard, restarted = Heard(), Restarted(postgresql, [2, 5, 9])
    there = Home(here.folder / "there")
    places = {"storage": storage(postgresql, there), "tracking_uri": f"sqlite:///{tmp_path}/other.db"}
    (result,) = run_on(2, here, study, dies=restarted, progress=heard, **places)
    assert len(restarted.starting) == 3 and result.counts == {"complete": 4}
    assert scores(result) == pytest.approx(scores(undisturbed), abs=1e-4)
    assert all(list(trial.intermediate_values) == [1, 2, 3] for trial in result.study.trials)
    assert not [trial for trial in result.study.trials if "pauses" in trial.user_attrs]
    begun = [line for line in heard.warnings if "it is tried again for 5 minutes" in line]
    assert len(begun) == 3 == sum("answers again" in line for line in heard.warnings)


@pytest.mark.parametrize("how", ["in vain", "a signal"])
def test_a_sweep_whose_server_stays_away_saves_checkpoints_and_goes_on_later(
    here: Home, postgresql: Server, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    url, study = storage(postgresql, here), here.study(train={"epochs": 3, "evals_per_epoch": 1})
    monkeypatch.setattr(outages, "HURRY", 0.0)
    if how == "in vain":
        monkeypatch.setattr(outages, "PATIENCE", 0.0)
    stops: list[bool] = []

    def leave() -> None:
        postgresql.stop()
        if how == "a signal":
            os.kill(os.getpid(), signal.SIGTERM)

    def heard(name: Call, arguments: tuple[Any, ...]) -> None:
        stops.append(name == "advance" and Stop() in arguments[0])

    pool = partial(TurnsPool, 2, at(4, leave), struck=heard)
    try:
        with pytest.raises(
            StorageError, match=r"does not answer \(.*\). What was finished is kept; give the same command"
        ):
            run_together([study], pool, slots=1, storage=url, tracking_uri=here.tracking_uri)
    finally:
        postgresql.start()
    assert sum(stops) == 2  # each worker
    (result,) = run_on(2, here, study, storage=url)
    assert result.counts == {"complete": 3}
    assert all(list(trial.intermediate_values) == [1, 2, 3] for trial in result.study.trials)


class Overtaken(Silent):
    """Another process takes over the study as soon as MLflow has a run for the current trial."""

    def __init__(self, server: Server, url: str, place: Home) -> None:
        self.server, self.url, self.place = server, url, place
        self.other: AbstractContextManager[None] = nullcontext()

    def step(self, *_: Any, **__: Any) -> None:
        if isinstance(self.other, nullcontext):
            end = time.monotonic() + 60
            # the study's run and its trial's
            while [run.info.status for run in self.place.runs()].count("RUNNING") < 2:
                assert time.monotonic() < end
                time.sleep(0.1)
            hang_up(self.server, self.url)
            self.other = Studies(self.url).lease("small")
            self.other.__enter__()


@pytest.mark.parametrize("how", ["run", "retrain"])
def test_a_sweep_that_lost_its_study_leaves_mlflow_and_the_adapters_to_the_new_owner(
    here: Home, postgresql: Server, how: str
) -> None:
    url, file, before = storage(postgresql, here), here.folder / "small.yaml", threading.enumerate()
    options: dict[str, Any] = {"storage": url, "tracking_uri": here.tracking_uri, "slots": 1}
    if how == "run":
        again = partial(peftsweep.run, file, **options)
    else:
        peftsweep.run(file, **options)
        again = partial(peftsweep.retrain, file, seeds=2, top=1, **options)
    watched = Overtaken(postgresql, url, here)
    with pytest.raises(StudyBusyError, match="is being run by process"):
        again(progress=watched)
    assert [run.info.status for run in here.runs()].count("RUNNING") == 2
    assert not [t for t in threading.enumerate() if t.name == "tracker" and t not in before]
    watched.other.__exit__(None, None, None)
    again()
    assert {run.info.status for run in here.runs()} == {"FINISHED"}


def move_as_shown(place: Home, url: str) -> None:
    """Move the study `small` to PostgreSQL with the commands that the FAQ shows for `topics`."""
    page = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
    (snippet,) = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "copy_study" in text]
    there = url.replace("postgresql:", "postgresql+psycopg:")
    for shown, own in {
        "sqlite:///studies.db": place.storage,
        "postgresql+psycopg://studies:password@db.example/studies": there,
        '"topics': '"small',
    }.items():
        assert shown in snippet
        snippet = snippet.replace(shown, own)
    subprocess.run([sys.executable, "-c", snippet], check=True, timeout=120)


def test_a_study_that_was_retrained_moves_with_its_seeds(never: Home, tmp_path: Path, postgresql: Server) -> None:
    here = home(tmp_path / "home")
    study = here.study(**GRID, model={"id": str(never.folder / "base")})
    here.run(study)
    options = {"seeds": 2, "top": 1, "tracking_uri": here.tracking_uri}
    rows = retrain(study, storage=here.storage, **options).rows
    seeds = Studies(here.storage).load("small/retrain").trials
    url = postgresql.database()
    move_as_shown(here, url)
    shutil.copytree(here.folder / "artifacts", here.folder / "moved")
    again = retrain(study, storage=f"{url}?artifacts={here.folder}/moved", **options)
    assert again.rows == rows
    moved = Studies(url).load("small/retrain").trials
    assert [(t.datetime_start, t.values) for t in moved] == [(t.datetime_start, t.values) for t in seeds]


def test_a_study_moves_from_sqlite_as_the_documents_say(never: Home, here: Home, postgresql: Server) -> None:
    """One trial is finished; another is half done and resumes from its checkpoint."""
    study = here.folder / "small.yaml"
    killed_at(here, "peftsweep.sweep.study_judge:StudyJudge.report 6", study)
    before = optuna.load_study(study_name="small", storage=here.storage)
    url = postgresql.database()
    move_as_shown(here, url)
    moved = Studies(url).load("small")
    assert moved.user_attrs == before.user_attrs
    assert [t.state for t in moved.trials] == [TrialState.COMPLETE, TrialState.RUNNING]
    for old, new in zip(before.trials, moved.trials, strict=True):
        for name in ("number", "params", "user_attrs", "intermediate_values", "datetime_start", "value"):
            assert getattr(old, name) == getattr(new, name) if name != "value" or old.values else True
    shutil.copytree(here.folder / "artifacts", here.folder / "moved")
    (here.folder / "studies.db").unlink()
    shutil.rmtree(here.folder / "artifacts")
    result = here.run(study, slots=1, storage=f"{url}?artifacts={here.folder}/moved")
    assert result.counts == {"complete": 2} and result.best is not None
    last = "small/trial-0001/adapter/adapter_model.safetensors"
    assert (here.folder / "moved" / last).read_bytes() == never.adapter(1).read_bytes()
    assert [run.info.status for run in here.runs()] == ["FINISHED"] * 3  # the same runs, resumed

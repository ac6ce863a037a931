"""Several processes run sweeps in one PostgreSQL, each with several workers. One study has one process at a time."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

import peftsweep
from peftsweep.errors import StudyBusyError
from peftsweep.storage import Studies
from peftsweep.study.stopping import stop
from tests.fork_server import Program
from tests.postgresql import Server
from tests.studies import ROOT, Home, home, until
from tests.test_driving import run_on, scores

DRIVER = f"""
import sys

sys.path.insert(0, {str(ROOT)!r})

from functools import partial

from peftsweep.sweep.run_study import run_together
from tests.pools import TurnsPool

storage, tracking_uri, *studies = sys.argv[1:]
run_together(studies, partial(TurnsPool, 2), slots=1, storage=storage, tracking_uri=tracking_uri)
"""
LONG: dict[str, Any] = {"epochs": 8, "evals_per_epoch": 1, "batch_size": 4}


@pytest.fixture
def here(tmp_path: Path) -> Home:
    return home(tmp_path / "home")


def drive(place: Home, url: str, *studies: Path) -> Program:
    """Run studies on two workers in another process."""
    return Program(["-c", DRIVER, url, place.tracking_uri, *map(str, studies)], place.folder, {})


def states(url: str) -> dict[str, str | None]:
    return {row["study"]: row["state"] for row in peftsweep.status(url)}


def test_two_drivers_run_different_studies_of_one_database_at_the_same_time(
    here: Home, tmp_path: Path, postgresql: Server
) -> None:
    url = f"{postgresql.database()}?artifacts={here.folder}/artifacts"
    changes: dict[str, Any] = {"train": LONG, "search": {"trials": 3}}
    one, two = here.study("one", **changes), here.study("two", **changes)
    first, second = drive(here, url, one), drive(here, url, two)
    until(lambda: states(url) == {"one": "running", "two": "running"}, first)
    rows = peftsweep.status(url)
    assert {row["process"].split()[1] for row in rows} == {str(first.pid), str(second.pid)}
    for process in (first, second):
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    assert states(url) == {"one": "done", "two": "done"}
    alone = Home(shutil.copytree(here.folder, tmp_path / "alone", ignore=shutil.ignore_patterns("artifacts")))
    (undisturbed,) = run_on(1, alone, one)  # in SQLite
    for name in ("one", "two"):
        study = Studies(url).load(name)
        assert [trial.number for trial in study.trials] == [0, 1, 2]
        assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
        assert len({trial.user_attrs["worker"] for trial in study.trials}) == 2
        found = {trial.number: trial.value for trial in study.trials}
        assert found == pytest.approx(scores(undisturbed), abs=1e-4)
    assert Counter(run.info.status for run in here.runs()) == {"FINISHED": 2 * (1 + 3)}


def test_the_second_driver_of_a_study_is_told_who_has_it_and_holds_no_other(here: Home, postgresql: Server) -> None:
    url = f"{postgresql.database()}?artifacts={here.folder}/artifacts"
    ours, other = here.study("ours", train=LONG | {"epochs": 600}), here.study("other")
    process = drive(here, url, ours)
    until(lambda: states(url).get("ours") == "running", process)
    with pytest.raises(StudyBusyError, match=rf"'ours' .* by process {process.pid} on "):
        run_on(2, here, other, ours, storage=url)
    (result,) = run_on(2, here, other, storage=url)
    assert result.counts == {"complete": 3}
    assert "stopped" in stop("ours", None, url)
    assert (process.communicate(timeout=120), process.returncode)[1] == 0
    assert states(url) == {"ours": "stopped", "other": "done"}

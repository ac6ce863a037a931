"""MLflow gets a copy of the study, and nothing that MLflow does affects a trial."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args
from urllib.request import urlopen

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from peftsweep.errors import TrackingError, UsageError
from peftsweep.sweep import sync
from peftsweep.system.atomic_files import put_if_free
from peftsweep.tracking import MlflowRuns, Outcome, Point, StudySnapshot, Tracker, TrialSnapshot, serve
from peftsweep.tracking.locations import check, sqlite_file
from peftsweep.tracking.mlflow_client import Client
from peftsweep.tracking.mlflow_connection import Connection
from peftsweep.tracking.mlflow_server import server_command, server_environment
from peftsweep.trial_state import Ended, TrialState
from tests.fork_server import Program
from tests.programs import free_port
from tests.studies import ROOT

pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy:DeprecationWarning")

EXPERIMENT = "tweets · single-label"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs. MLflow takes seconds to create its tables, so all tests share it."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def notes() -> Iterator[list[str]]:
    """What the trackers of a test report; a test removes what it expects, and nothing may be left."""
    said: list[str] = []
    yield said
    assert said == []


def opened(uri: str, notes: list[str], known: dict[str, str] | None = None, **params: Any) -> Tracker:
    tracker = Tracker(MlflowRuns(uri), note=notes.append)
    tracker.open_study(StudySnapshot("demo", EXPERIMENT, params, {"peftsweep.method": "lora"}, known or {}))
    return tracker


def fetch(uri: str, tracker: Tracker) -> dict[str, Run]:
    client = MlflowClient(uri)
    return {key: client.get_run(run_id) for key, run_id in tracker.run_ids.items()}


def curve(uri: str, run: Run, metric: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in MlflowClient(uri).get_metric_history(run.info.run_id, metric)]


def left_running(uri: str, notes: list[str]) -> dict[str, str]:
    """Leave runs as a process does that is killed in the middle of trial 3; returns their ids."""
    tracker = opened(uri, notes)
    tracker.start_trial(3, params={}, tags={})
    tracker.log(3, {"loss": 0.5}, 10)
    wait_for(lambda: not tracker._waiting)
    return tracker.run_ids


def wait_for(what: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


# Runs -----------------------------------------------------------------------------------------------------------------


def test_a_trial_is_a_run_nested_under_its_study_with_everything_known_of_it(
    uri: str, notes: list[str], tmp_path: Path
) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights").write_text("w")
    (tmp_path / "picture").write_text("p")
    tracker = opened(uri, notes, model="owner/base")
    tracker.start_trial(7, params={"rank": 16}, tags={"peftsweep.model": "owner/base"})
    tracker.log(7, {"macro_f1": 0.5, "loss": math.nan}, 10)
    tracker.log(7, {"macro_f1": 0.6}, 20)
    files = {"adapter": tmp_path / "adapter", "confusion_matrix.png": tmp_path / "picture"}
    tracker.end_trial(7, Outcome(TrialState.COMPLETE, metrics={"best_macro_f1": 0.6}, artifacts=files))
    tracker.end_study(
        Outcome(TrialState.COMPLETE, metrics={"best_macro_f1": 0.6}, artifacts={"study": tmp_path / "picture"})
    )
    tracker.close()
    runs = fetch(uri, tracker)
    study, trial = runs["parent"], runs["7"]
    assert (study.info.run_name, trial.info.run_name) == ("demo", "trial-0007")
    assert (study.data.params, trial.data.params) == ({"model": "owner/base"}, {"rank": "16"})
    assert trial.data.tags["mlflow.parentRunId"] == study.info.run_id
    assert trial.data.tags["peftsweep.trial"] == "7" and study.data.tags["peftsweep.method"] == "lora"
    assert trial.data.metrics == {"macro_f1": 0.6, "best_macro_f1": 0.6}
    assert curve(uri, trial, "macro_f1") == [(10, 0.5), (20, 0.6)]
    listed = [file.path for file in MlflowClient(uri).list_artifacts(trial.info.run_id)]
    assert listed == ["adapter", "confusion_matrix.png"]
    assert trial.info.artifact_uri.startswith((tmp_path / "mlartifacts").as_uri())
    assert not (tmp_path / "mlruns").exists()


def test_every_end_has_its_state_and_its_reason(uri: str, notes: list[str]) -> None:
    tracker = opened(uri, notes)
    ends = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "interrupted": "KILLED"}
    for number, state in enumerate((*get_args(Ended), TrialState.STOPPED)):
        tracker.start_trial(number, params={}, tags={})
        tracker.end_trial(number, Outcome(state, f"why {number}"))
    tracker.end_study(Outcome(TrialState.STOPPED))
    tracker.close()
    runs = fetch(uri, tracker)
    assert runs["parent"].info.status == "KILLED"
    for number, (state, status) in enumerate(ends.items()):
        run = runs[str(number)]
        assert run.info.status == status
        assert run.info.run_name == f"trial-{number:04d}" + " pruned" * (state == "pruned")
        assert (run.data.tags["peftsweep.state"], run.data.tags["peftsweep.reason"]) == (state, f"why {number}")


def test_nothing_is_left_running_after_close(uri: str, notes: list[str]) -> None:
    tracker = opened(uri, notes)
    tracker.start_trial(0, params={}, tags={})
    tracker.close()
    tracker.close()
    assert {run.info.status for run in fetch(uri, tracker).values()} == {"KILLED"}


def test_artifacts_may_be_deleted_as_soon_as_they_are_handed_over(uri: str, notes: list[str], tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "weights").write_text("w")
    tracker = opened(uri, notes)
    tracker.start_trial(0, params={}, tags={})
    tracker.end_trial(0, Outcome(TrialState.COMPLETE, artifacts={"deep/adapter": adapter}))
    shutil.rmtree(adapter)
    spool = tracker._spool._temporary
    tracker.close()
    fetched = MlflowClient(uri).download_artifacts(tracker.run_ids["0"], "deep/adapter/weights", str(tmp_path))
    assert Path(fetched).read_text() == "w"
    assert spool is not None and not spool.path.exists()


def test_a_tracker_leaves_no_copies_and_no_open_file(
    notes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page").write_text("p")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for end in (Tracker.abandon, Tracker.close):
        tracker = Tracker(MlflowRuns(f"sqlite:///{tmp_path}/none/mlflow.db"), note=notes.append)
        tracker._copies({"page": tmp_path / "page"})
        assert len(list((tmp_path / "temporary").iterdir())) == 1
        end(tracker)
        end(tracker)
    assert not list((tmp_path / "temporary").iterdir())
    with os.scandir("/proc/self/fd") as descriptors:
        assert not [each for each in descriptors if str(tmp_path / "temporary") in os.path.realpath(each)]


def test_copies_are_in_a_locked_folder_even_after_the_system_removed_temporary_files(
    notes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page").write_text("p")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tracker = Tracker(MlflowRuns(f"sqlite:///{tmp_path}/none/mlflow.db"), note=notes.append)
    first = tracker._copies({"page": tmp_path / "page"})["page"]
    shutil.rmtree(first.parents[1])
    second = tracker._copies({"page": tmp_path / "page"})["page"]
    another = [sys.executable, "-c", "from peftsweep.system.temporary import TemporaryFolder; TemporaryFolder()"]
    subprocess.run(another, env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}, check=True)
    assert second.read_text() == "p"
    tracker.close()


def test_sending_a_page_may_take_longer_than_the_patience(
    uri: str, notes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page").write_text("p")
    send = MlflowClient.log_artifact

    def slowly(*given: Any) -> None:
        time.sleep(3)
        send(*given)

    monkeypatch.setattr(MlflowClient, "log_artifact", slowly)
    tracker = Tracker(MlflowRuns(uri), note=notes.append)
    tracker.store_page(EXPERIMENT, tmp_path / "page")
    tracker.close(patience=2)
    assert tracker.in_sync


def test_calls_return_at_once(uri: str, notes: list[str]) -> None:
    tracker = opened(uri, notes)
    tracker.start_trial(0, params={}, tags={})
    began = time.perf_counter()
    for step in range(100):
        tracker.log(0, {"loss": 0.5}, step)
    assert (time.perf_counter() - began) / 100 < 0.01
    tracker.close()


def test_params_too_long_or_changed_do_not_fail_a_run(uri: str, notes: list[str]) -> None:
    first = opened(uri, notes, text="x" * 7000, dtype="float32", same=1)
    first.close()
    second = opened(uri, notes, first.run_ids, text="x" * 7000, dtype="bfloat16", same=1, new="n")
    second.close()
    study = fetch(uri, second)["parent"]
    assert len(study.data.params["text"]) == 6000
    assert (study.data.params["dtype"], study.data.params["new"]) == ("float32", "n")
    changed = {key: value for key, value in study.data.tags.items() if key.startswith("param_changed.")}
    assert changed == {"param_changed.dtype": "bfloat16"}


# Resuming -------------------------------------------------------------------------------------------------------------


def test_a_resumed_study_keeps_its_runs_and_repeats_no_point(uri: str, notes: list[str]) -> None:
    first = opened(uri, notes)
    first.start_trial(0, params={"rank": 8}, tags={})
    for step in (10, 20):
        first.log(0, {"loss": 1 / step}, step)
    first.end_trial(0, Outcome(TrialState.STOPPED, "stopped"))
    first.close()
    second = opened(uri, notes, first.run_ids)
    second.start_trial(0, params={"rank": 8}, tags={})
    wait_for(lambda: not second._waiting)
    running = fetch(uri, second)["0"]
    assert running.info.status == "RUNNING" and "peftsweep.reason" not in running.data.tags
    for step in (20, 30):
        second.log(0, {"loss": 1 / step}, step)
    second.end_trial(0, Outcome(TrialState.COMPLETE))
    second.end_study(Outcome(TrialState.COMPLETE))
    second.close()
    assert second.run_ids == first.run_ids
    assert curve(uri, fetch(uri, second)["0"], "loss") == [(10, 1 / 10), (20, 1 / 20), (30, 1 / 30)]


def test_a_run_that_a_killed_process_left_running_is_ended(uri: str, notes: list[str]) -> None:
    known = left_running(uri, notes)
    tracker = opened(uri, notes, {"parent": known["parent"]})
    tracker.catch_up(
        {
            3: TrialSnapshot({}, {}, [], Outcome(TrialState.PRUNED, "below the median")),
            4: TrialSnapshot({}, {}, [], Outcome(TrialState.STOPPED)),
        }
    )
    tracker.close()
    trial = MlflowClient(uri).get_run(known["3"])
    assert (trial.info.status, trial.data.tags["peftsweep.reason"]) == ("KILLED", "below the median")


def test_an_incomplete_run_is_completed_and_a_complete_one_stays(uri: str, notes: list[str]) -> None:
    first = opened(uri, notes)
    first.start_trial(0, params={}, tags={})
    first.log(0, {"loss": 0.5}, 10)
    first.end_trial(0, Outcome(TrialState.STOPPED, "stopped"))
    first.start_trial(1, params={}, tags={})
    for value, step in ((0.5, 10), (0.25, 20)):
        first.log(1, {"loss": value}, step)
    first.end_trial(1, Outcome(TrialState.PRUNED, "below the median"))
    first.close()
    before = fetch(uri, first)["1"].info.end_time
    points = [Point({"loss": 0.5}, 10), Point({"loss": 0.25}, 20)]
    snapshots = {
        0: TrialSnapshot({"rank": 8}, {}, points, Outcome(TrialState.COMPLETE, metrics={"best_macro_f1": 0.7})),
        1: TrialSnapshot({}, {}, points, Outcome(TrialState.PRUNED, "below the median")),
        2: TrialSnapshot({"rank": 4}, {}, points, Outcome(TrialState.FAILED, "loss is nan")),
    }
    second = opened(uri, notes, first.run_ids)
    second.catch_up(snapshots)
    second.close()
    runs = fetch(uri, second)
    assert [runs[n].data.tags["peftsweep.state"] for n in ("0", "1", "2")] == ["complete", "pruned", "failed"]
    assert curve(uri, runs["0"], "loss") == curve(uri, runs["2"], "loss") == [(10, 0.5), (20, 0.25)]
    assert runs["0"].data.metrics["best_macro_f1"] == 0.7 and runs["2"].data.params == {"rank": "4"}
    assert runs["1"].info.end_time == before and curve(uri, runs["1"], "loss") == [(10, 0.5), (20, 0.25)]


def test_a_trial_whose_run_id_was_not_stored_is_found_by_its_parent(uri: str, notes: list[str]) -> None:
    known = left_running(uri, notes)
    tracker = opened(uri, notes, {"parent": known["parent"]})
    tracker.start_trial(3, params={}, tags={})
    tracker.close()
    assert tracker.run_ids == known


def test_a_wiped_database_gets_new_runs(uri: str, notes: list[str]) -> None:
    known = {"parent": "0" * 32, "3": "1" * 32, "4": "2" * 32}
    tracker = opened(uri, notes, known)
    tracker.start_trial(3, params={}, tags={})
    tracker.close()
    assert set(tracker.run_ids) == {"parent", "3"}
    assert not set(tracker.run_ids.values()) & set(known.values())
    assert len(fetch(uri, tracker)) == 2


def test_a_deleted_experiment_is_restored(uri: str, notes: list[str]) -> None:
    first = opened(uri, notes)
    first.close()
    client = MlflowClient(uri)
    client.delete_experiment(fetch(uri, first)["parent"].info.experiment_id)
    second = opened(uri, notes, first.run_ids)
    second.close()
    assert fetch(uri, second)["parent"].info.lifecycle_stage == "active"


# Failures -------------------------------------------------------------------------------------------------------------


def test_a_dead_server_takes_no_time_and_gives_one_warning_and_a_summary(notes: list[str]) -> None:
    port = free_port()
    known = {"parent": "0" * 32}
    tracker = opened(f"http://me:secret@127.0.0.1:{port}", notes, known)
    tracker.start_trial(0, params={}, tags={})
    for step in range(50):
        tracker.log(0, {"loss": 0.5}, step)
    tracker.end_trial(0, Outcome(TrialState.COMPLETE))
    wait_for(lambda: bool(notes))
    began = time.monotonic()
    tracker.close()
    assert time.monotonic() - began < 5
    warning, summary = notes
    assert f"http://me:***@127.0.0.1:{port} does not answer (Connection refused)" in warning
    assert summary == "MLflow: 53 updates were not written (Connection refused); peftsweep sync writes what is missing"
    assert tracker.run_ids == known
    notes.clear()


class Wiped(MlflowRuns):
    """MLflow whose database is removed between the look for it and the update."""

    def _client(self) -> Client:
        client = super()._client()
        if len(self.ids) == 1:  # the study's own run
            Path(self._connection.uri.removeprefix("sqlite:///")).unlink(missing_ok=True)
        return client


def test_what_removed_the_database_is_named_and_not_what_it_caused(uri: str, notes: list[str]) -> None:
    tracker = Tracker(Wiped(uri), note=notes.append)
    tracker.open_study(StudySnapshot("demo", EXPERIMENT, {}, {}, {}))
    tracker.start_trial(0, params={}, tags={})
    wait_for(lambda: bool(notes))
    tracker.close()
    assert notes[0].startswith(f"MLflow at {uri} does not answer (its file was removed or replaced);")
    notes.clear()


def test_a_server_that_never_answers_is_given_up_after_the_timeout(notes: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracker = opened(f"http://127.0.0.1:{silent.getsockname()[1]}", notes)
        began = time.monotonic()
        tracker.close(timeout=1)
        assert time.monotonic() - began < 2
    assert "MLflow: 1 update was not written (it took too long)" in notes.pop()


def test_waiting_updates_are_written_when_the_server_answers(
    uri: str, notes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peftsweep.tracking.queue.PAUSE", 0.2)
    file, aside = tmp_path / "mlflow.db", tmp_path / "aside.db"
    file.rename(aside)
    file.mkdir()  # a folder in place of the database
    tracker = opened(uri, notes)
    tracker.start_trial(0, params={}, tags={})
    tracker.log(0, {"loss": 0.5}, 1)
    wait_for(lambda: bool(notes))
    file.rmdir()
    aside.rename(file)
    wait_for(lambda: not tracker._waiting)
    tracker.close()
    assert fetch(uri, tracker)["0"].data.metrics == {"loss": 0.5}
    assert len(notes) == 1 and "does not answer (unable to open database file)" in notes.pop()


KILLED_BETWEEN_TABLES = """
import os, signal, sys
from pathlib import Path

import mlflow.store.db.utils
from peftsweep.tracking.mlflow_database import make_store

mlflow.store.db.utils._upgrade_db = lambda engine: os.kill(os.getpid(), signal.SIGKILL)
make_store(Path(sys.argv[1]))
"""


def test_a_process_killed_while_mlflow_creates_its_tables_leaves_no_half_database(
    tmp_path: Path, notes: list[str]
) -> None:
    file = tmp_path / "mlflow.db"
    with Program(["-c", KILLED_BETWEEN_TABLES, str(file)], tmp_path) as killed:
        killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL and not file.exists()
    tracker = opened(f"sqlite:///{file}", notes)
    tracker.end_study(Outcome(TrialState.COMPLETE))
    tracker.close()
    assert fetch(f"sqlite:///{file}", tracker)["parent"].info.status == "FINISHED"


def test_two_sweeps_that_start_at_once_share_the_database_of_the_faster(tmp_path: Path) -> None:
    for name in ("mlflow.db", "aside"):
        (tmp_path / name).write_text(name)
    put_if_free(tmp_path / "aside", tmp_path / "mlflow.db")
    assert (tmp_path / "mlflow.db").read_text() == "mlflow.db"


def test_two_studies_of_a_command_make_the_database_one_after_the_other(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with ThreadPoolExecutor(2) as threads:
        clients = [threads.submit(Connection(uri).client) for _ in range(2)]
        assert [client.result().search_experiments()[0].name for client in clients] == ["Default"] * 2


def test_two_studies_of_the_same_data_share_the_experiment_of_the_faster(
    uri: str, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    look = MlflowClient.get_experiment_by_name

    def look_just_before_another(client: MlflowClient, name: str) -> Any:
        found = look(client, name)
        if found is None:
            MlflowClient(uri).create_experiment(name)
        return found

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", look_just_before_another)
    tracker = opened(uri, notes)
    tracker.end_study(Outcome(TrialState.COMPLETE))
    tracker.close()
    assert notes == [] and fetch(uri, tracker)["parent"].info.status == "FINISHED"


def test_only_the_update_that_mlflow_refuses_is_lost(uri: str, notes: list[str]) -> None:
    tracker = opened(uri, notes)
    tracker.start_trial(0, params={}, tags={})
    tracker.log(0, {"no such; name?": 0.5}, 1)
    tracker.log(0, {"loss": 0.5}, 1)
    tracker.close()
    assert fetch(uri, tracker)["0"].data.metrics == {"loss": 0.5}
    warning, summary = notes
    assert "refused an update" in warning and summary.startswith("MLflow: 1 update was not written")
    notes.clear()


def test_a_trial_that_mlflow_refuses_does_not_affect_those_after_it(uri: str, notes: list[str]) -> None:
    tracker = opened(uri, notes)
    curves = [{"loss": 0.5}, {"no such; name?": 0.5}, {"loss": 0.25}]
    tracker.catch_up(
        {n: TrialSnapshot({}, {}, [Point(curve, 1)], Outcome(TrialState.COMPLETE)) for n, curve in enumerate(curves)}
    )
    tracker.close()
    runs = fetch(uri, tracker)
    assert [runs[number].data.metrics for number in "02"] == [{"loss": 0.5}, {"loss": 0.25}]
    assert notes.pop().startswith("MLflow: 1 update was not written") and "refused an update" in notes.pop()


def test_only_the_artifact_that_is_missing_is_lost(uri: str, notes: list[str], tmp_path: Path) -> None:
    (tmp_path / "there").write_text("t")
    tracker = opened(uri, notes)
    tracker.start_trial(0, params={}, tags={})
    files = {"gone": tmp_path / "gone", "there": tmp_path / "there"}
    tracker.end_trial(0, Outcome(TrialState.COMPLETE, artifacts=files))
    tracker.close()
    assert [file.path for file in MlflowClient(uri).list_artifacts(tracker.run_ids["0"])] == ["there"]
    assert "No such file" in notes[0] and len(notes) == 2
    notes.clear()


def test_a_tracker_that_gets_nothing_does_nothing(tmp_path: Path, notes: list[str]) -> None:
    Tracker(MlflowRuns(f"sqlite:///{tmp_path}/mlflow.db"), note=notes.append).close()
    assert list(tmp_path.iterdir()) == []


def test_importing_tracking_does_not_import_mlflow() -> None:
    code = "import peftsweep.tracking, sys; assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


TELEMETRY = """
import sys
from peftsweep.tracking import MlflowRuns, StudySnapshot, Tracker

tracker = Tracker(MlflowRuns(sys.argv[1]), note=print)
assert "mlflow" not in sys.modules, "MLflow decides about telemetry when it is imported"
tracker.open_study(StudySnapshot("demo", "tweets"))
tracker.close()
from mlflow.telemetry import utils
assert not utils._IS_IN_CI_ENV_OR_TESTING, "MLflow would send nothing for that reason alone"
assert utils.is_telemetry_disabled()
"""


def test_a_sweep_sends_no_telemetry_to_mlflow(uri: str) -> None:
    alone = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    root = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", TELEMETRY, uri], env=alone | {"PYTHONPATH": root}, check=True)


# Addresses ------------------------------------------------------------------------------------------------------------


WRONG = {
    "not an address": [
        "",
        " ",
        "x",
        "./mlruns",
        "file:///x",
        "127.0.0.1:5000",
        "localhost:5000",
        "//h",
        "me:PW@h:5000",
        5,
        b"x",
    ],
    "names no host": ["http://", "http:///x", "https:/h", "http:h:5000", "http://me:PW@", "http://me:PW@:80"],
    "its host or its port cannot be read; expected": [
        "http://[::1",
        "http://me:PW@[::1",
        "http://me:PW@h:abc",
        "http://h:99999",
    ],
    "in a password write %40 for @": [
        "http://me:P@ W/x@h:5000",
        "http://me:PW?x@h",
        "http://me:PW#x@h",
        "http://me:PW/x@h",
    ],
    "is a device, a pipe or a socket": ["sqlite:////dev/null"],
    "is a file store": ["ftp://h/x", "s3://bucket/x", "hdfs://h:8020/x"],
    "there is no port 0": ["http://me:PW@h:0"],
    "no host has": ["http://h h:80", "http://a..b", "http://me:PW@.", f"http://{'a' * 64}.org"],
    "has characters that no address has": [
        "http://me:PW@h\n",
        "http://me:PW@h\x1b[2J",
        " http://h",
        "http://h\u200b",
    ],
    "is longer than": [f"http://me:PW@{'x' * 5000}"],
    "names no file": ["sqlite://", "sqlite:///", "sqlite:////", "sqlite:x.db", "sqlite://h/x.db", "sqlite:///:memory:"],
    "its host or its port": ["postgresql://me:PW@h:abc/d", "mysql+pymysql://me:PW@[::1/d"],
}


@pytest.mark.parametrize("kind", ["postgresql", "postgresql+psycopg"])
def test_a_database_that_does_not_answer_is_not_waited_for(kind: str) -> None:
    """MLflow itself would try again and again for minutes."""
    with socket.socket() as held:  # a port on which nobody listens
        held.bind(("127.0.0.1", 0))
        began = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            Connection(f"{kind}://me@127.0.0.1:{held.getsockname()[1]}/x").client()
        with pytest.raises(Exception, match="No such file or directory"):
            Connection(f"{kind}:///x?host=/nowhere").client()
    assert time.monotonic() - began < 60  # imports take most of it


def test_a_folder_that_may_not_be_searched_is_not_taken_for_a_device(tmp_path: Path) -> None:
    """A tracker that cannot be reached stops no sweep."""
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0)
    root = os.geteuid() == 0
    try:
        if root:  # root may search every folder
            os.seteuid(65534)
        with pytest.raises(PermissionError):
            (closed / "mlflow.db").stat()
        check(f"sqlite:///{closed}/mlflow.db")
    finally:
        if root:
            os.seteuid(0)
        closed.chmod(0o700)


@pytest.mark.parametrize("why", WRONG)
def test_an_invalid_address_is_refused_before_anything_is_done(why: str, tmp_path: Path) -> None:
    for uri in WRONG[why]:
        uses: list[Callable[[Any], object]] = [serve, MlflowRuns]
        for used in (*uses, lambda uri: sync(storage=str(tmp_path), tracking_uri=uri)):
            with pytest.raises(UsageError, match=re.escape(why)) as raised:
                used(uri)
            text = str(raised.value)
            assert text.startswith("--tracking-uri ") and "PW" not in text and "W/x" not in text and text.isprintable()
            assert len(text) < 400


def test_a_valid_address_is_accepted() -> None:
    servers = ["HTTP://h", "http://[::1]:5000", "https://me:p%40w@h/x?a=me@b#c", "http://h/@me", "http://exämple.org"]
    for uri in [*servers, "postgresql:///d", "databricks", "databricks://me", "arn:aws:sagemaker:x", "plugin://x"]:
        check(uri)


def test_the_file_of_an_sqlite_url_is_absolute() -> None:
    assert sqlite_file("sqlite:///mlflow.db") == Path.cwd() / "mlflow.db"
    assert sqlite_file("sqlite:////data/mlflow.db?timeout=9") == Path("/data/mlflow.db")
    assert sqlite_file("sqlite:///:memory:") is None and sqlite_file("http://host") is None
    assert server_environment("sqlite:///mlflow.db")["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{Path.cwd()}/mlflow.db"


def test_the_server_s_command_line_which_all_users_can_read_has_no_password() -> None:
    command = server_command("postgresql://me:s3cret@host/db", "127.0.0.1", 5000)
    assert "s3cret" not in " ".join(command)


# The server -----------------------------------------------------------------------------------------------------------


def test_ui_says_when_nothing_is_tracked_yet(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"nothing is tracked in .*mlflow\.db yet; run a study first"):
        serve(f"sqlite:///{tmp_path}/mlflow.db")


def test_ui_refuses_the_address_of_a_server() -> None:
    with pytest.raises(TrackingError, match=r"http://u:\*\*\*@host:5000 is an MLflow server;"):
        serve("http://u:secret@host:5000")


def test_ui_says_when_the_port_is_taken(uri: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TrackingError, match=rf"port {port} of 127\.0\.0\.1 \(Address already in use\).*--port"):
            serve(uri, port=port)


@pytest.mark.parametrize("host", ["", " ", "a..b", "http://127.0.0.1", "9" * 5000])
def test_ui_says_at_once_that_a_host_is_not_an_address(uri: str, host: str) -> None:
    with pytest.raises(
        TrackingError, match=r"^--host '.* is not an address: 127\.0\.0\.1 is for this machine"
    ) as raised:
        serve(uri, host=host)
    assert len(str(raised.value)) < 200


def test_ui_says_when_the_file_is_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("long enough to be taken for a database" * 10)
    with pytest.raises(TrackingError, match=r"mlflow\.db is not a database of MLflow .*file is not a database"):
        serve(f"sqlite:///{tmp_path}/mlflow.db")


def test_ui_refuses_the_studies_database(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "studies.db")) as database:
        database.execute("create table studies (x)")
    with pytest.raises(TrackingError, match=r"studies\.db holds the studies; MLflow's runs are in another file"):
        serve(f"sqlite:///{tmp_path}/studies.db")


def test_ui_says_why_the_server_did_not_start(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.executescript(
            "create table alembic_version (version_num text); insert into alembic_version values (9)"
        )
    with pytest.raises(TrackingError, match=r"the MLflow server did not start: .*'9'"):
        serve(f"sqlite:///{tmp_path}/mlflow.db", port=free_port())


def test_ui_hides_the_password_in_what_the_server_says() -> None:
    with pytest.raises(TrackingError, match=r"did not start: .*foo://me:\*\*\*@host/db") as error:
        serve("foo://me:s3%2Fc%3Fr%40et@host/db", port=free_port())
    assert "et@host" not in str(error.value)


def test_ui_serves_what_was_tracked_until_it_is_interrupted(uri: str, notes: list[str], tmp_path: Path) -> None:
    (tmp_path / "picture").write_text("p")
    tracker = opened(uri, notes)
    tracker.start_trial(0, params={}, tags={})
    tracker.end_trial(0, Outcome(TrialState.COMPLETE, artifacts={"confusion_matrix.png": tmp_path / "picture"}))
    tracker.close()
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("artifact_location: mlruns/0\nexperiment_id: '0'\nname: old\n")
    port = free_port()
    code = f"import sys; from peftsweep.tracking import serve; sys.exit(serve({uri!r}, '0.0.0.0', {port}))"
    run = tracker.run_ids["0"]
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=-1, stderr=-1, text=True) as ui:
        assert ui.stdout is not None and ui.stderr is not None
        base = f"http://127.0.0.1:{port}"
        assert base in ui.stdout.readline() and "no password" in ui.stdout.readline()
        with urlopen(f"{base}/api/2.0/mlflow/artifacts/list?run_id={run}") as answer:
            assert [file["path"] for file in json.load(answer)["files"]] == ["confusion_matrix.png"]
        with urlopen(f"{base}/get-artifact?path=confusion_matrix.png&run_uuid={run}") as answer:
            assert answer.read() == b"p"
        through_server = opened(base, notes)
        through_server.end_study(Outcome(TrialState.COMPLETE, artifacts={"study.yaml": tmp_path / "picture"}))
        through_server.close()
        study = fetch(uri, through_server)["parent"]
        with urlopen(f"{base}/get-artifact?path=study.yaml&run_uuid={study.info.run_id}") as answer:
            assert answer.read() == b"p" and study.info.status == "FINISHED"
        group = int(Path(f"/proc/{ui.pid}/task/{ui.pid}/children").read_text())
        ui.send_signal(signal.SIGINT)
        assert (ui.wait(20), ui.stderr.read()) == (0, "")
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)

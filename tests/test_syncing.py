"""`peftsweep sync`: MLflow as the studies say, whatever became of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest

from peftsweep import report, sweep
from peftsweep.errors import TrackingError, UsageError
from peftsweep.storage import Studies
from tests.studies import Home, home

DEAD = "http://127.0.0.1:9"


@pytest.fixture
def here(tmp_path: Path) -> Home:
    return home(tmp_path / "home")


def told(place: Home, copy: str = "") -> dict[str, Any]:
    """All that MLflow holds, by trial ("parent" for the study), but for the runs' own ids.

    Args:
        copy: read a copy of this name, for MLflow keeps a file open that was deleted.
    """
    client, found = mlflow.MlflowClient(tracking_uri=copied(place, copy)), {}
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    parents = {run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags}
    for run in runs:
        where = run.info.run_id
        child = run.data.tags.get("mlflow.parentRunId")
        assert child is None or child in parents
        own = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.")}
        curves = {k: [(p.step, p.value) for p in client.get_metric_history(where, k)] for k in run.data.metrics}
        files = {
            inner.path
            for file in client.list_artifacts(where)
            for inner in (client.list_artifacts(where, file.path) if file.is_dir else [file])
        }
        times = (run.info.start_time // 5000, run.info.end_time // 5000) if child else None
        found[own.get("peftsweep.trial", "parent")] = [run.info.status, run.data.params, own, curves, files, times]
    return found


def copied(place: Home, copy: str) -> str:
    if not copy:
        return place.tracking_uri
    shutil.copy(place.folder / "mlflow.db", place.folder / copy)
    return f"sqlite:///{place.folder}/{copy}"


def sync(place: Home, **options: Any) -> dict[str, str]:
    return sweep.sync(**{"storage": place.storage, "tracking_uri": place.tracking_uri} | options)


def test_a_wiped_mlflow_is_rebuilt_and_a_second_time_changes_nothing(here: Home) -> None:
    search = {"trials": 2, "sampler": "grid", "pruner": {"reduction": 2, "min_evals": 3}}
    train = {"epochs": 6, "evals_per_epoch": 1, "batch_size": 4}
    space = {"learning_rate": [1e-8, 3e-3]}  # one learns nothing
    words = ("--study", str(here.study(train=train, space=space, search=search)), "--slots", "2")
    assert here.call("run", *words).returncode == 0
    before = told(here, "before.db")
    assert {key: run[2]["peftsweep.state"] for key, run in before.items()} == {
        "parent": "complete",
        "0": "pruned",
        "1": "complete",
    }
    assert before["parent"][4] == {"small.yaml"} and "adapter/adapter_model.safetensors" in before["1"][4]
    (here.folder / "mlflow.db").unlink()
    shutil.rmtree(here.folder / "mlartifacts")
    again, nothing = here.call("sync"), here.call("sync")
    assert (again.stderr.strip(), nothing.stderr.strip()) == ("small: written", "small: level")
    after = told(here, "after.db")
    for key, run in after.items():
        assert run[:5] == before[key][:5], key
        assert key == "parent" or all(abs(a - b) <= 1 for a, b in zip(run[5], before[key][5], strict=True))  # 5 s
    wiped = (here.folder / "mlflow.db").read_bytes()
    assert here.call("sync").stderr.strip() == "small: level" and (here.folder / "mlflow.db").read_bytes() == wiped
    (best,) = report.best(here.storage)
    client = mlflow.MlflowClient(tracking_uri=copied(here, "last.db"))
    assert best.mlflow_run_id is not None and client.get_run(best.mlflow_run_id).info.run_name == "trial-0001"


def test_what_a_tracker_that_was_down_missed_is_written(here: Home) -> None:
    here.run(here.study(), tracking_uri=DEAD)
    assert here.runs() == []
    assert sync(here) == {"small": "written"}
    found = told(here)
    assert {key: run[0] for key, run in found.items()} == dict.fromkeys(("parent", "0", "1", "2"), "FINISHED")
    assert all(len(found[key][3]["macro_f1"]) == 4 for key in "012")


def test_a_run_that_was_deleted_comes_back(here: Home) -> None:
    here.run(here.study())
    before, client = told(here), mlflow.MlflowClient(tracking_uri=here.tracking_uri)
    (lost,) = [run for run in here.runs() if run.data.tags.get("peftsweep.trial") == "1"]
    client.delete_run(lost.info.run_id)
    assert set(told(here)) == {"parent", "0", "2"}
    assert sync(here) == {"small": "written"}
    assert told(here) == before


def test_points_that_were_lost_are_written(here: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that was full: curves without points, in runs that have ended as they should."""
    monkeypatch.setattr("peftsweep.tracking.tracker.WAITING", 0)
    here.run(here.study(), trials=1)
    monkeypatch.undo()
    assert "macro_f1" not in told(here)["0"][3]
    assert sync(here) == {"small": "written"}
    assert len(told(here)["0"][3]["macro_f1"]) == 4
    assert sync(here) == {"small": "level"}


def test_one_file_for_studies_and_mlflow_is_refused_and_stays_as_it_is(here: Home) -> None:
    here.run(here.study(), trials=1)
    before = (here.folder / "studies.db").read_bytes()
    with pytest.raises(UsageError, match="are one file"):
        sync(here, tracking_uri=here.storage)
    assert (here.folder / "studies.db").read_bytes() == before and report.best(here.storage)


def test_a_server_that_does_not_answer_is_told_and_the_study_is_as_it_was(here: Home) -> None:
    study = here.run(here.study(), trials=1).study
    before = study.user_attrs
    with pytest.raises(TrackingError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer"):
        sync(here, tracking_uri=DEAD)
    assert study.user_attrs == before


def test_a_study_that_is_being_run_is_left_to_its_sweep(here: Home) -> None:
    here.run(here.study(), trials=1)
    with Studies(here.storage).lease("small"):
        assert sync(here) == {"small": "running"}
    with pytest.raises(UsageError, match="did you mean small"):
        sync(here, studies=["smal"])
    with pytest.raises(UsageError, match="nothing is stored in"):
        sync(here, storage=f"sqlite:///{here.folder}/other.db")


def test_the_command_says_what_it_did(here: Home) -> None:
    here.run(here.study(), trials=1)
    good, bad = here.call_each([["sync"], ["sync", "--tracking-uri", DEAD]])
    assert (good.returncode, good.stdout) == (0, "") and good.stderr.strip() == "small: level"
    assert bad.returncode == 1 and "does not answer" in bad.stderr and "Traceback" not in bad.stderr

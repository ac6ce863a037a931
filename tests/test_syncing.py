"""`peftsweep sync` writes to MLflow what the studies say, whatever has happened to MLflow."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

from peftsweep import sweep
from peftsweep.errors import StorageError, TrackingError, UsageError
from peftsweep.storage import Studies
from peftsweep.study import best_rows
from peftsweep.tracking import MlflowRuns, Tracker
from tests.made_studies import fill
from tests.studies import Home, all_of, empty_mlflow, home

DEAD = "http://127.0.0.1:9"


@pytest.fixture
def here(tmp_path: Path) -> Home:
    return home(tmp_path / "home")


def in_mlflow(place: Home, copy: str = "") -> dict[str, Any]:
    """Everything that MLflow holds.

    Args:
        copy: read a copy of the database under this name, because MLflow keeps a deleted file open.
    """
    return all_of(copied(place, copy))


def copied(place: Home, copy: str) -> str:
    if not copy:
        return place.tracking_uri
    shutil.copy(place.folder / "mlflow.db", place.folder / copy)
    return f"sqlite:///{place.folder}/{copy}"


def sync(place: Home, **options: Any) -> dict[str, str]:
    return sweep.sync(**{"storage": place.storage, "tracking_uri": place.tracking_uri} | options)


def test_a_wiped_mlflow_is_rebuilt_and_a_second_sync_changes_nothing(here: Home) -> None:
    search = {"trials": 2, "sampler": "grid", "pruner": {"reduction": 2, "min_evals": 3}}
    train = {"epochs": 6, "evals_per_epoch": 1, "batch_size": 4}
    space = {"learning_rate": [1e-8, 3e-3]}  # the first one learns nothing
    words = ("--study", str(here.study(train=train, space=space, search=search)), "--slots", "2")
    assert here.call("run", *words).returncode == 0
    before = in_mlflow(here, "before.db")
    assert {key: run[2]["peftsweep.state"] for key, run in before.items()} == {
        "parent": "complete",
        "0": "pruned",
        "1": "complete",
    }
    assert {file for file, _ in before["parent"][4]} == {"small.yaml"}
    assert "adapter/adapter_model.safetensors" in {file for file, _ in before["1"][4]}
    (here.folder / "mlflow.db").unlink()
    shutil.rmtree(here.folder / "mlartifacts")
    again = here.call("sync")
    wiped = (here.folder / "mlflow.db").read_bytes()
    nothing = here.call("sync")
    assert (here.folder / "mlflow.db").read_bytes() == wiped
    assert (again.stderr, nothing.stderr) == (
        "small: written (3 runs made, comparison.html)\n",
        "small: nothing was missing\n",
    )
    after = in_mlflow(here, "after.db")
    assert after == before  # including the times of all runs and of their evaluations
    assert len({at for _, _, at in after["1"][3]["macro_f1"]}) == 6
    (best,) = best_rows.best(here.storage)
    client = mlflow.MlflowClient(tracking_uri=copied(here, "last.db"))
    assert best.mlflow_run_id is not None and client.get_run(best.mlflow_run_id).info.run_name == "trial-0001"


def times(place: Home) -> dict[str, tuple[int, int]]:
    """When each run began and ended. Each key names the run and the run above it."""
    names = {run.info.run_id: run.info.run_name for run in place.runs()}
    nested = {run.info.run_id: names.get(run.data.tags.get("mlflow.parentRunId")) for run in place.runs()}
    return {
        f"{nested[run.info.run_id]}: {run.info.run_name}": (run.info.start_time, run.info.end_time)
        for run in place.runs()
    }


def delete_runs(place: Home) -> None:
    client = mlflow.MlflowClient(tracking_uri=place.tracking_uri)
    for run in place.runs():
        client.delete_run(run.info.run_id)


def test_a_study_that_was_run_twice_and_its_seeds_keep_their_times(here: Home) -> None:
    for trials in (1, 2):
        here.run(here.study(), trials=trials)
    sweep.retrain(here.study(), seeds=2, top=1, storage=here.storage, tracking_uri=here.tracking_uri)
    before = times(here)
    assert {"None: small", "small: small/retrain"} < before.keys() and len(before) == 6
    delete_runs(here)
    assert sync(here) == {"small": "written"}
    assert times(here) == before


def test_a_study_with_a_running_trial_ends_with_the_last_evaluation_of_that_trial(here: Home) -> None:
    study = here.run(here.study(), trials=1).study
    began, ended = times(here)["None: small"]
    going = study.ask()
    going.set_user_attr("began", ended + 1)
    going.set_user_attr("params", study.trials[0].user_attrs["params"])
    going.set_user_attr("evaluations", [study.trials[0].user_attrs["evaluations"][0] | {"at": ended + 5}])
    for _ in range(2):
        assert sync(here) == {"small": "written"}
        assert times(here)["None: small"] == (began, ended + 5)
        delete_runs(here)


def test_a_study_of_an_earlier_version_began_with_its_first_trial(here: Home) -> None:
    here.run(here.study(), trials=1)
    with contextlib.closing(sqlite3.connect(here.folder / "studies.db")) as database:
        assert database.execute("delete from study_user_attributes where key = 'began'").rowcount == 1
        database.commit()
    delete_runs(here)
    assert sync(here) == {"small": "written"}
    found = in_mlflow(here)
    assert found["parent"][5] == found["0"][5]


def test_what_mlflow_missed_while_it_was_down_is_written(here: Home) -> None:
    here.run(here.study(), tracking_uri=DEAD)
    assert here.runs() == []
    assert sync(here) == {"small": "written"}
    found = in_mlflow(here)
    assert {key: run[0] for key, run in found.items()} == dict.fromkeys(("parent", "0", "1", "2"), "FINISHED")
    assert all(len(found[key][3]["macro_f1"]) == 4 for key in "012")


def test_a_deleted_run_is_restored(here: Home) -> None:
    here.run(here.study())
    before, client = in_mlflow(here), mlflow.MlflowClient(tracking_uri=here.tracking_uri)
    (lost,) = [run for run in here.runs() if run.data.tags.get("peftsweep.trial") == "1"]
    client.delete_run(lost.info.run_id)
    assert set(in_mlflow(here)) == {"parent", "0", "2"}
    assert sync(here) == {"small": "written"}
    assert in_mlflow(here) == before


def test_invalid_run_ids_are_repaired(here: Home) -> None:
    """Empty ids, as a gateway gives them; impossible ids; ids without a run; empty ids after MLflow was wiped."""
    here.run(here.study(), trials=1)
    study = Studies(here.storage).load("small")
    before = study.user_attrs["mlflow_runs"]
    for invalid, wiped in (("", False), ("../x", False), ("0" * 32, False), ("", True)):
        study.set_user_attr("mlflow_runs", dict.fromkeys(("parent", "0"), invalid))
        if wiped:
            delete_runs(here)
        assert sync(here) == {"small": "written" if wiped else "in sync"}
        ids = Studies(here.storage).load("small").user_attrs["mlflow_runs"]
        runs = {run.info.run_name: run.info.run_id for run in here.runs()}
        assert ids == {"parent": runs["small"], "0": runs["trial-0000"]} and (ids == before) != wiped


def test_runs_of_an_earlier_version_get_their_names_and_status(here: Home) -> None:
    """It gave runs of seeds the names of the sweep's trials, and ended runs of pruned trials like complete ones."""
    space, pruner = {"learning_rate": [1e-8, 3e-3]}, {"reduction": 2, "min_evals": 3}
    search = {"trials": 2, "sampler": "grid", "pruner": pruner}
    file = here.study(space=space, search=search, train={"epochs": 6, "evals_per_epoch": 1, "batch_size": 4})
    here.run(file, slots=2)
    sweep.retrain(file, seeds=2, top=1, storage=here.storage, tracking_uri=here.tracking_uri)
    before = {run.info.run_id: (run.info.run_name, run.info.status) for run in here.runs()}
    found = sorted(before.values())
    (best,) = best_rows.best(here.storage)
    seeds = [(f"{best.trial} seed {seed}", "FINISHED") for seed in (1, 2)]
    assert set(seeds) < set(found) and (f"trial-000{1 - best.trial} pruned", "KILLED") in found
    client = mlflow.MlflowClient(tracking_uri=here.tracking_uri)
    for run in here.runs():
        if "peftsweep.trial" in run.data.tags:
            client.update_run(run.info.run_id, status="FINISHED", name=f"trial-000{run.data.tags['peftsweep.trial']}")
    assert sync(here) == {"small": "written"} and sync(here) == {"small": "in sync"}
    assert {run.info.run_id: (run.info.run_name, run.info.status) for run in here.runs()} == before


def comparison(uri: str) -> tuple[str, str]:
    """The id of the only comparison run, and its page."""
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, "tags.`peftsweep.kind` = 'comparison'")
    return run.info.run_id, Path(client.download_artifacts(run.info.run_id, "comparison.html")).read_text()


def test_a_deleted_comparison_is_restored_and_drawn_again_if_its_file_is_gone(here: Home) -> None:
    here.run(here.study(), trials=1)
    client, page = mlflow.MlflowClient(tracking_uri=here.tracking_uri), here.folder / "artifacts" / "comparison.html"
    for gone in (False, True):
        run, stored = comparison(here.tracking_uri)
        assert stored == page.read_text()
        client.delete_run(run)
        if gone:
            page.unlink()
        assert sync(here) == {"small": "written"}
        again = comparison(here.tracking_uri)
        assert again[0] != run and again[1] == page.read_text()
        assert sync(here) == {"small": "in sync"} and comparison(here.tracking_uri) == again


def pages(uri: str) -> dict[str, dict[str, str]]:
    """The pages in each experiment's comparison run, by name."""
    client, found = mlflow.MlflowClient(tracking_uri=uri), dict[str, dict[str, str]]()
    for experiment in client.search_experiments(filter_string="name != 'Default'"):
        (run,) = client.search_runs([experiment.experiment_id], "tags.`peftsweep.kind` = 'comparison'")
        files = [file.path for file in client.list_artifacts(run.info.run_id)]
        found[experiment.name] = {
            file: Path(client.download_artifacts(run.info.run_id, file)).read_text() for file in files
        }
    return found


def test_a_page_of_some_studies_is_restored_in_their_experiments_alone(tmp_path: Path) -> None:
    place, other = Home(tmp_path), f"sqlite:///{tmp_path}/other.db"
    for name in ("mlflow.db", "other.db"):
        (tmp_path / name).write_bytes(empty_mlflow())
    for name in ("one", "two"):
        study = fill(place.storage, name, trials=3, rows=50)
        for key in ("experiment", "fingerprint", "key"):
            study.set_user_attr(key, name)
    for chosen in (None, ["one"]):
        sweep.compare(storage=place.storage, tracking_uri=place.tracking_uri, studies=chosen)
    before = pages(place.tracking_uri)
    assert {name: set(found) for name, found in before.items()} == {
        "one": {"comparison.html", "selection.html"},
        "two": {"comparison.html"},
    }
    assert sync(place, tracking_uri=other) == {"one": "written", "two": "written"}
    wiped = (tmp_path / "other.db").read_bytes()
    assert pages(other) == before
    assert sync(place, tracking_uri=other) == {"one": "in sync", "two": "in sync"}
    assert (tmp_path / "other.db").read_bytes() == wiped


def test_a_restored_comparison_ends_no_earlier_than_it_begins(tmp_path: Path) -> None:
    place = Home(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(empty_mlflow())
    fill(place.storage, "one", trials=3, rows=50).set_user_attr("key", "one")
    for chosen in (["one"], None):
        sweep.compare(storage=place.storage, tracking_uri=DEAD, studies=chosen)
    some, whole = (tmp_path / "artifacts" / f"{name}.html" for name in ("selection", "comparison"))
    for page, age in ((some, 3600), (whole, 60)):
        os.utime(page, (time.time() - age,) * 2)
    assert sync(place) == {"one": "written"}
    run_id, _ = comparison(place.tracking_uri)
    run = mlflow.MlflowClient(tracking_uri=place.tracking_uri).get_run(run_id)
    drawn = [int(1000 * page.stat().st_mtime) for page in (some, whole)]
    assert [run.info.start_time, run.info.end_time] == drawn
    os.utime(some, (time.time() - 7200,) * 2)  # now the page is older than the run
    tracker = Tracker(MlflowRuns(place.tracking_uri), note=lambda _: None)
    tracker.store_page("tweets · multi-label · f00d00", some, some.name)
    tracker.close()
    run = mlflow.MlflowClient(tracking_uri=place.tracking_uri).get_run(run_id)
    assert run.info.start_time <= run.info.end_time


@pytest.mark.parametrize("broken", [b"", b"\xff\xfe", b"<html>", b"a page cut short"])
def test_a_page_of_some_studies_that_cannot_be_read_stops_nothing(tmp_path: Path, broken: bytes) -> None:
    place = Home(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(empty_mlflow())
    fill(place.storage, "one", trials=3, rows=50).set_user_attr("key", "one")
    page = sweep.compare(storage=place.storage, tracking_uri=DEAD, studies=["one"]).page
    page.write_bytes(page.read_bytes()[:150] if broken.startswith(b"a page") else broken)
    assert sync(place) == {"one": "written"} and sync(place) == {"one": "in sync"}


def test_a_metric_of_the_study_that_falls_is_updated(here: Home) -> None:
    study = here.run(here.study(), trials=1).study
    for peak in (2_000_000_000, 1_000_000_000):
        study.set_user_attr("memory", {"peak_bytes": peak})
        study.set_user_attr("mlflow_level", False)
        assert sync(here) == {"small": "written"}
        (parent,) = [run for run in here.runs() if run.info.run_name == "small"]
        assert parent.data.metrics["peak_bytes"] == peak


def test_a_page_that_mlflow_missed_replaces_its_older_one(here: Home) -> None:
    here.run(here.study(), trials=1)
    run, before = comparison(here.tracking_uri)
    sweep.compare(storage=here.storage, tracking_uri=DEAD)
    page = here.folder / "artifacts" / "comparison.html"
    page.write_text(page.read_text() + "<!-- newer -->")
    assert sync(here) == {"small": "written"}
    assert comparison(here.tracking_uri) == (run, page.read_text()) and page.read_text() != before
    assert sync(here) == {"small": "in sync"}


def test_if_two_sweeps_create_a_comparison_at_once_the_older_one_stays(here: Home) -> None:
    study = here.run(here.study(), trials=1).study
    run, page = comparison(here.tracking_uri)
    client = mlflow.MlflowClient(tracking_uri=here.tracking_uri)
    experiment = client.get_experiment_by_name(study.user_attrs["experiment"])
    client.create_run(experiment.experiment_id, tags={"peftsweep.kind": "comparison"}, run_name="comparison")
    assert sync(here) == {"small": "written"}
    assert comparison(here.tracking_uri) == (run, page)


def test_a_study_in_two_mlflows_is_once_in_each(here: Home) -> None:
    here.run(here.study(), trials=1)
    before, other = in_mlflow(here), f"sqlite:///{here.folder}/other.db"
    assert sync(here, tracking_uri=other) == {"small": "written"}
    assert sync(here) == sync(here, tracking_uri=other) == {"small": "in sync"}
    assert in_mlflow(here) == all_of(other) == before


def test_points_that_were_lost_are_written(here: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue was full: curves lack points, although their runs have ended as they should."""
    monkeypatch.setattr("peftsweep.tracking.queue.WAITING", 0)
    here.run(here.study(), trials=1)
    monkeypatch.undo()
    assert "macro_f1" not in in_mlflow(here)["0"][3]
    assert sync(here) == {"small": "written"}
    assert len(in_mlflow(here)["0"][3]["macro_f1"]) == 4
    assert sync(here) == {"small": "in sync"}


def test_a_point_that_was_lost_in_the_middle_of_a_curve_comes_back(here: Home) -> None:
    here.run(here.study(), trials=1)
    before = in_mlflow(here)
    with contextlib.closing(sqlite3.connect(here.folder / "mlflow.db")) as database:
        (lost,) = database.execute("select step from metrics where key = 'macro_f1' order by step limit 1 offset 1")
        assert database.execute("delete from metrics where key = 'macro_f1' and step = ?", lost).rowcount == 1
        database.commit()
    assert in_mlflow(here) != before
    assert sync(here) == {"small": "written"}
    assert in_mlflow(here) == before


def test_an_error_as_an_answer_is_not_reported_as_no_answer(here: Home) -> None:
    here.run(here.study(), trials=1)
    with sqlite3.connect(here.folder / "mlflow.db") as database:
        database.execute("DROP TABLE latest_metrics")
    with pytest.raises(TrackingError, match=r"can be used \(.*no such table: latest_metrics"):
        sync(here)


def test_points_that_were_lost_are_written_by_the_next_run_too(here: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftsweep.tracking.queue.WAITING", 0)
    here.run(here.study(), trials=1)
    monkeypatch.undo()
    here.run(here.study(), trials=2)
    assert [len(in_mlflow(here)[trial][3]["macro_f1"]) for trial in "01"] == [4, 4]
    assert sync(here) == {"small": "in sync"}


@pytest.mark.parametrize("gone", ["mlartifacts", "mlartifacts/*/*/artifacts/adapter", "mlartifacts/**/small.yaml"])
def test_artifacts_that_were_deleted_without_their_runs_are_restored(here: Home, gone: str) -> None:
    here.run(here.study(), trials=1)
    before = in_mlflow(here)
    lost = list(here.folder.glob(gone))
    for path in lost:
        path.unlink() if path.is_file() else shutil.rmtree(path)
    assert lost and in_mlflow(here) != before
    assert sync(here) == {"small": "written"}
    assert in_mlflow(here) == before
    assert sync(here) == {"small": "in sync"}


def test_the_memory_of_a_pack_is_written_to_the_study_s_run(here: Home) -> None:
    """On a GPU, `run` records it in the study."""
    study = here.run(here.study(), trials=1).study
    study.set_user_attr("memory", {"planned_bytes": 3 * 2**30, "peak_bytes": 2 * 2**30})
    assert sync(here) == {"small": "written"}
    _, params, _, metrics, _, (_, ended) = in_mlflow(here)["parent"]
    assert params["planned_bytes"] == str(3 * 2**30) and metrics["peak_bytes"] == [(0, 2.0 * 2**30, ended)]
    assert sync(here) == {"small": "in sync"}


def test_one_file_for_studies_and_mlflow_is_refused_and_stays_as_it_is(here: Home) -> None:
    here.run(here.study(), trials=1)
    before = (here.folder / "studies.db").read_bytes()
    with pytest.raises(UsageError, match="are one file"):
        sync(here, tracking_uri=here.storage)
    assert (here.folder / "studies.db").read_bytes() == before and best_rows.best(here.storage)


def test_a_server_that_does_not_answer_is_reported_and_the_study_stays_as_it_was(here: Home) -> None:
    study = here.run(here.study(), trials=1).study
    before = study.user_attrs
    with pytest.raises(TrackingError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer"):
        sync(here, tracking_uri=DEAD)
    assert study.user_attrs == before


def test_a_study_that_mlflow_refuses_does_not_stop_the_others(here: Home) -> None:
    for name in ("first", "second"):
        here.run(here.study(name), trials=1, tracking_uri=DEAD)
    first = Studies(here.storage).load("first")
    first.set_user_attr("described", {"no such; name?": 1})
    notes: list[str] = []
    with pytest.raises(TrackingError, match=r"^study 'first': MLflow at .* refused an update .*\n.*try again"):
        sync(here, note=notes.append)
    assert notes == ["first: not written", "second: written (2 runs made)"]
    assert sync(here, studies=["second"]) == {"second": "in sync"}


def test_a_study_that_is_being_run_is_left_to_its_sweep(here: Home) -> None:
    here.run(here.study(), trials=1)
    with Studies(here.storage).lease("small"):
        assert sync(here) == {"small": "running"}
    with pytest.raises(UsageError, match="did you mean small"):
        sync(here, studies=["smal"])
    with pytest.raises(StorageError, match=r"other\.db.* not there"):
        sync(here, storage=f"sqlite:///{here.folder}/other.db")


def test_the_command_says_what_it_did(here: Home) -> None:
    here.run(here.study(), trials=1)
    good, bad = here.call_each([["sync"], ["sync", "--tracking-uri", DEAD]])
    assert (good.returncode, good.stdout) == (0, "") and good.stderr.strip() == "small: nothing was missing"
    assert bad.returncode == 1 and "does not answer" in bad.stderr and "Traceback" not in bad.stderr


def test_a_study_whose_base_was_never_loaded_is_in_sync_too(here: Home) -> None:
    study = str(here.study(data={"max_length": 100_000}))
    failed = here.call("run", "--study", study)
    assert failed.returncode != 0 and "positions" in failed.stderr
    found = [sync(here), sync(here)]
    assert found[1] == {"small": "in sync"}


def test_an_artifact_that_was_cut_short_is_written_again(here: Home) -> None:
    here.run(here.study(search={"trials": 1}))
    (file,) = here.folder.glob("mlartifacts/*/*/artifacts/per_class.json")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert (sync(here), file.read_bytes()) == ({"small": "written"}, whole)


def test_more_trials_than_mlflow_lists_at_once_are_all_found(here: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftsweep.tracking.mlflow_client.PAGE", 1)
    here.run(here.study(search={"trials": 3}))
    before = in_mlflow(here, "before.db")
    assert set(before) == {"parent", "0", "1", "2"}
    Studies(here.storage).load("small").set_user_attr("mlflow_runs", {})  # so that sync has to search for them
    found = [sync(here), sync(here)]
    assert found[1] == {"small": "in sync"} and in_mlflow(here, "after.db") == before

"""Do databases, artifacts and exported folders of earlier code still work?

`recorded/commit-891dd38.tar.gz` is a working folder of commit 891dd38, which is later than release 0.1.0 and comes
right before workers began to exchange messages with the study. In it, `first` has complete, pruned, failed, stopped and
waiting trials and was retrained; `second` is done. `recorded/commit-891dd38.json` has what that code's commands printed
and what its `sync` wrote to MLflow.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from peftsweep.storage import Studies, write_study
from peftsweep.study.seeds import summarised
from tests.studies import Home, empty_mlflow

RECORDED = Path(__file__).parent / "recorded"
EARLIER = json.loads((RECORDED / "commit-891dd38.json").read_text(encoding="utf-8"))
READ = [["best", "--json"], ["status", "--json"], ["compare", "--json"]]
PREDICT = ["predict", "exported", "--text", "joy joy the and", "--text", "to anger of"]


def unpacked(folder: Path) -> Home:
    """Unpack the recorded folder in another place."""
    with tarfile.open(RECORDED / "commit-891dd38.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    (folder / "mlflow.db").write_bytes(empty_mlflow())
    return Home(folder)


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> list[subprocess.CompletedProcess[str]]:
    """What the commands that only read print now."""
    return unpacked(tmp_path_factory.mktemp("read")).call_each([*READ, PREDICT])


@pytest.mark.parametrize("place", range(len(READ)), ids=[words[0] for words in READ])
def test_earlier_studies_give_the_same_answers(read: list[subprocess.CompletedProcess[str]], place: int) -> None:
    answer, (command, _) = read[place], READ[place]
    assert (answer.returncode, answer.stderr) == (0, "")
    now = json.loads(answer.stdout)
    for row in now if command == "status" else ():
        for part in filter(None, (row, row["retrain"])):
            later = {key: part.pop(key) for key in ("state", "process", "heartbeat", "reason", "workers")}
            assert not any(later.values())  # no sweep of that time recorded itself
            assert part.pop("resume").startswith("peftsweep re" if part is row["retrain"] else "peftsweep run")
        assert row.pop("done") <= row["total"]
    assert_close(now, EARLIER[command])


def test_retrained_configurations_keep_their_bytes(
    read: list[subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    studies = Studies(unpacked(tmp_path).storage)
    study, seeds, then = studies.load("first"), studies.retrained("first"), retrained_text(tmp_path)
    assert seeds is not None and len(then) > 2000 and study.record.retrained == summarised(study, seeds)
    for configurations in (study.record.retrained, summarised(study, seeds)):
        write_study(study, retrained=[])
        assert retrained_text(tmp_path) == "[]"
        write_study(study, retrained=configurations)
        assert retrained_text(tmp_path) == then
    printed = {row["study"]: row["retrained"] for row in json.loads(read[0].stdout)}  # the order of keys is kept
    assert json.dumps(printed["first"]) == then and printed["second"] is None


def retrained_text(folder: Path) -> str:
    """The text in the database."""
    with closing(sqlite3.connect(folder / "studies.db")) as database:
        query = "SELECT value_json FROM study_user_attributes WHERE key = 'retrained'"
        ((text,),) = database.execute(query).fetchall()
    return str(text)


def test_an_earlier_export_predicts_the_same(read: list[subprocess.CompletedProcess[str]]) -> None:
    assert (read[-1].returncode, read[-1].stdout) == (0, EARLIER["predict"])


def test_mlflow_gets_the_same_as_from_earlier_code(tmp_path: Path) -> None:
    place = unpacked(tmp_path)
    assert place.call("sync").returncode == 0
    assert_close(runs(place.tracking_uri), EARLIER["mlflow"])


def test_an_earlier_study_resumes_and_keeps_its_format(tmp_path: Path) -> None:
    place = unpacked(tmp_path)
    (study, before), answer = stored_trials(place), place.call("run", "--study", "first.yaml", "--trials", "8")
    assert answer.returncode == 0, answer.stderr
    now, after = stored_trials(place)
    assert now.keys() == {*study.keys(), "sweep"} and all(
        now[key] == study[key] for key in ("config", "key", "retrained", "test")
    )
    assert after[:7] == before[:7]  # these trials had ended
    for was, trial in zip(before[7:], after[7:], strict=True):  # one was stopped, the other was waiting
        assert trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and was.params.items() <= trial.params.items()
        assert trial.user_attrs.keys() - {"pauses", "kept", "dropped"} == after[3].user_attrs.keys() - {"kept"}
        assert trial.user_attrs["evaluations"][0].keys() == after[3].user_attrs["evaluations"][0].keys()
    assert (seed(before[7]), len(after[7].user_attrs["pauses"])) == (seed(after[7]), 1)
    assert (
        after[7].user_attrs["evaluations"][0] == before[7].user_attrs["evaluations"][0]
    )  # it resumed from its checkpoint


def stored_trials(place: Home) -> tuple[dict[str, Any], list[FrozenTrial]]:
    """`first` and its trials, as Optuna reads them from the database."""
    study = optuna.load_study(study_name="first", storage=place.storage)
    return study.user_attrs, study.get_trials()


def seed(trial: FrozenTrial) -> Any:
    return trial.user_attrs["seed"]


def runs(uri: str) -> dict[str, Any]:
    """Everything in MLflow, by the path of run names from the outermost run."""
    client = mlflow.MlflowClient(tracking_uri=uri)
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    by_id = {run.info.run_id: run for run in found}

    def path(run: mlflow.entities.Run) -> str:
        above = run.data.tags.get("mlflow.parentRunId")
        return run.info.run_name if above is None else f"{path(by_id[above])} > {run.info.run_name}"

    return {path(run): as_values(client, run) for run in found if "peftsweep.kind" not in run.data.tags}


def as_values(client: mlflow.MlflowClient, run: mlflow.entities.Run) -> dict[str, Any]:
    """A run as plain values."""
    where = run.info.run_id
    points = {key: client.get_metric_history(where, key) for key in run.data.metrics}
    return {
        "status": run.info.status,
        "times": [run.info.start_time, run.info.end_time],
        "params": run.data.params,
        "tags": {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")},
        "metrics": {key: [[p.step, p.value, p.timestamp] for p in each] for key, each in points.items()},
        "artifacts": sorted(file.path for file in client.list_artifacts(where)),
    }


def assert_close(now: Any, then: Any) -> None:
    """Check that both are equal, except for rounding on another machine."""
    assert type(now) is type(then)
    if isinstance(then, dict):
        assert now.keys() == then.keys()
        for key in then:
            assert_close(now[key], then[key])
    elif isinstance(then, list):
        assert len(now) == len(then)
        for one, other in zip(now, then, strict=True):
            assert_close(one, other)
    else:
        assert now == (pytest.approx(then, rel=1e-6) if isinstance(then, float) else then)

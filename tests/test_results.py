"""`best` and `status`: plain rows about the studies and their results."""

from __future__ import annotations

import io
import json
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from peftsweep import progress, sweep
from peftsweep.errors import StorageError, UsageError
from peftsweep.export import export
from peftsweep.storage import Studies
from peftsweep.study import best_rows, status_rows
from tests.stored import add_study, add_trial, trial_attrs

KEYS = [
    "study",
    "data",
    "fingerprint",
    "validation_fingerprint",
    "model",
    "method",
    "trial",
    "macro_f1",
    "macro_f1_tuned",
    "micro_f1",
    "accuracy",
    "loss",
    "step",
    "params",
    "sampled",
]
KEYS += ["mlflow_run_id", "adapter"]


def study(storage: str, name: str, fingerprint: str, values: Sequence[float], **more: float) -> optuna.Study:
    """A study with a complete trial for each value; the trials also have these scores."""
    one = add_study(storage, name, experiment="tweets · single-label", fingerprint=fingerprint)
    for number, value in enumerate(values):
        scores = trial_attrs(value)["scores"] | more
        add_trial(
            one, value, scores=scores, step=10 * number, seconds=2.0, adapter=f"{name}/trial-{number:04d}/adapter"
        )
    return one


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of two studies: `a` has a trial in every state, `b` has no complete trial."""
    file = tmp_path_factory.mktemp("whole") / "studies.db"
    url = f"sqlite:///{file}"
    one = study(url, "a", "f1", (0.5, 0.7, 0.7))
    one.set_user_attr("mlflow_runs", {"parent": "p", "1": "run-1"})
    add_trial(one, None, TrialState.FAIL)
    one.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.99}, user_attrs=trial_attrs(None)))
    one.ask()
    one.enqueue_trial({})
    add_study(url, "b")
    return file


@pytest.fixture
def storage(whole: Path, tmp_path: Path) -> str:
    """A copy of the database, because Optuna takes long to create its tables."""
    return f"sqlite:///{shutil.copy(whole, tmp_path)}"


def test_the_best_is_the_first_of_the_highest_complete_trials(storage: str, tmp_path: Path) -> None:
    (row,) = best_rows.best(storage)
    assert (row.study, row.trial, row.macro_f1, row.step) == ("a", 1, 0.7, 10)
    assert row.mlflow_run_id == "run-1"
    assert row.adapter == str(tmp_path / "artifacts" / "a" / "trial-0001" / "adapter")


def test_the_best_on_each_data_are_marked_and_come_first(storage: str) -> None:
    for name, fingerprint, value in (("c", "f1", 0.7), ("d", "f2", 0.9), ("e", "f2", 0.95), ("f", "f2", 0.95)):
        study(storage, name, fingerprint, [value])
    study(storage, "0", "f2", [0.2])
    found = best_rows.best(storage)
    assert [row.study for row in found] == ["e", "f", "d", "0", "a", "c"]
    assert [row.study for row in found if row.overall] == ["e", "f", "a", "c"]
    assert [row.tied for row in found if row.study in "ac"] == [[2], []]
    assert [row.overall for row in best_rows.best(storage, ["d"])] == [True]


def test_the_best_is_reported_by_validation_rows_whatever_the_studies_were_trained_on(storage: str) -> None:
    for name, rows, value in (("c", "v1", 0.7), ("d", "v1", 0.8), ("e", "v2", 0.6)):
        study(storage, name, f"data of {name}", [value]).set_user_attr("validation_fingerprint", rows)
    found = best_rows.best(storage, ["c", "d", "e"])
    assert [row.study for row in found if row.overall] == ["d", "e"]
    text = io.StringIO()
    progress.best_table(found, text)
    tables = [line.split() for line in text.getvalue().split("* the best")[0].splitlines()]
    assert [
        words[1] if words[0] == "*" else words[0] for words in tables if len(words) > 4 and words[0] != "study"
    ] == ["tweets", "d", "c", "tweets", "e"]


def test_a_study_of_an_earlier_version_is_on_the_rows_of_one_with_its_data(storage: str) -> None:
    study(storage, "new", "f1", [0.9]).set_user_attr("validation_fingerprint", "v1")
    assert [(row.study, row.validation_fingerprint, row.overall) for row in best_rows.best(storage)] == [
        ("new", "v1", True),
        ("a", "v1", False),
    ]


def test_status_names_the_score_that_a_study_optimizes(storage: str) -> None:
    study(storage, "c", "f1", [0.9]).set_user_attr("metric", "macro_f1_tuned")
    assert {row["study"]: row["objective"] for row in status_rows.status(storage)} == {
        "a": "macro_f1",
        "b": "macro_f1",
        "c": "macro_f1_tuned",
    }


def test_python_functions_ignore_the_environment(storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTSWEEP_STORAGE", "sqlite:///elsewhere.db")
    monkeypatch.chdir(tmp_path)
    assert [row.study for row in best_rows.best()] == ["a"]
    assert status_rows.status() == status_rows.status(storage)


def test_a_row_has_the_documented_keys_and_is_json(storage: str) -> None:
    (row,) = best_rows.best(storage)
    assert [*KEYS, "test", "objective", "tested", "retrained", "overall", "tied", "labels"] == list(row.as_dict())
    assert json.loads(json.dumps(row.as_dict())) == row.as_dict()


STATES = ("complete", "pruned", "failed", "running", "stopped", "waiting")


def test_status_counts_every_state(storage: str) -> None:
    a, b = status_rows.status(storage)
    assert [a[key] for key in STATES] == [3, 1, 1, 0, 1, 1]
    assert (a["best"], a["seconds"], a["retrain"]) == (0.7, 6.0, None)
    assert (b["study"], b["complete"], b["best"], b["seconds"]) == ("b", 0, None, 0)


def test_a_trial_runs_while_a_process_runs_its_study_and_is_stopped_otherwise(storage: str) -> None:
    again = study(storage, "a/retrain", "f1", [0.7])
    again.set_user_attr("total", 5)
    again.ask(), again.ask()
    every: tuple[Literal["run", "retrain", "sync"], ...] = ("run", "retrain", "sync")
    rows = {}
    for doing in every:
        with Studies(storage).lease("b", "run"), Studies(storage).lease("a", doing):
            rows[doing], _ = status_rows.status(storage)
    nobody, _ = status_rows.status(storage)
    assert [(row["running"], row["stopped"]) for row in rows.values()] == [(1, 0), (0, 1), (0, 1)]
    seeds = [row["retrain"] for row in rows.values()]
    assert [(row["running"], row["stopped"], row["done"], row["total"]) for row in seeds] == [
        (0, 2, 1, 5),
        (2, 0, 1, 5),
        (0, 2, 1, 5),
    ]
    assert rows["sync"] == nobody
    text = io.StringIO()
    progress.status_table([rows["run"], rows["retrain"]], text)
    header, *_, summary, first, second, third = text.getvalue().splitlines()
    assert summary == "10 of 14 trials done · 1 running"
    assert header.split()[4:7] == ["running", "stopped", "waiting"]
    assert first == "a, retrained: 1 of 5 seeds done, 2 stopped · 2s; to resume: peftsweep retrain --study a"
    assert second == "a: 1 trial stopped; to resume: peftsweep run --study a"
    assert third == "a, retrained: 1 of 5 seeds done, 2 running · 2s"


def test_looking_whether_a_study_runs_keeps_nobody_from_running_it(storage: str) -> None:
    studies, stop = Studies(storage), threading.Event()

    def look() -> None:
        while not stop.wait(0.001):
            studies.doing("a")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(20):
            with Studies(storage).lease("a"):
                assert studies.doing("a") == "run"
    finally:
        stop.set()
        thread.join()
    assert studies.doing("a") is None


def test_only_the_requested_studies_are_returned(storage: str) -> None:
    assert best_rows.best(storage, ["b"]) == []
    assert [row["study"] for row in status_rows.status(storage, ["b", "b"])] == ["b"]


def test_the_error_for_an_unknown_study_lists_the_nearest_names(storage: str) -> None:
    add_study(storage, "lora-minilm")
    with pytest.raises(UsageError, match=r"no study 'lora-minlm' .*; did you mean lora-minilm\?"):
        best_rows.best(storage, ["lora-minlm"])


def test_reading_creates_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert best_rows.best() == [] and status_rows.status() == []
    with pytest.raises(UsageError, match="nothing is stored"):
        best_rows.best(studies=["a"])
    assert list(tmp_path.iterdir()) == []


READING: dict[str, Callable[[str], object]] = {
    "best": best_rows.best,
    "best of one": lambda url: best_rows.best(url, ["a"]),
    "status": status_rows.status,
    "compare": lambda url: sweep.compare(storage=url),
    "sync": lambda url: sweep.sync(storage=url),
    "retrain": lambda url: sweep.retrain("demo", storage=url),
    "export": lambda url: export("a", "there", storage=url),
}


@pytest.mark.parametrize("read", READING)
def test_a_mistyped_storage_is_an_error(tmp_path: Path, read: str) -> None:
    for name in ("studies.db", "studies.db.lock"):
        (tmp_path / name).touch()
    for url, what in {
        f"sqlite:///{tmp_path}/studis.db": "studis.db: the file is not there; did you mean studies.db?",
        f"sqlite:///{tmp_path}/none/studies.db": f"the file is not there; the folder {tmp_path}/none is not there",
        f"sqlite:///{tmp_path}": "a folder is there, and no database",
    }.items():
        with pytest.raises(StorageError, match=re.escape(what)):
            READING[read](url)
    assert {file.name for file in tmp_path.iterdir()} == {"studies.db", "studies.db.lock"}


def test_an_empty_file_is_left_empty(tmp_path: Path) -> None:
    for name in ("studies.db", "studies.db.lock"):
        (tmp_path / name).touch()
    url = f"sqlite:///{tmp_path}/studies.db"
    assert best_rows.best(url) == [] and status_rows.status(url) == []
    assert (tmp_path / "studies.db").stat().st_size == 0


def test_a_test_score_belongs_to_the_trial_it_was_made_for(storage: str) -> None:
    assert (best_rows.best(storage)[0].test, best_rows.best(storage)[0].tested) == (None, None)
    study = optuna.load_study(study_name="a", storage=storage)
    study.set_user_attr("test", {"trial": 0, "scores": {"macro_f1": 0.6}})  # it was the best trial at that time
    first = best_rows.best(storage)[0]
    assert (first.trial, first.test, first.tested) == (1, {"macro_f1": 0.6}, 0)
    text = io.StringIO()
    progress.best_table([first], text)
    assert text.getvalue().splitlines()[-1] == "  test split: trial 0, macro-F1 0.600"


def test_studies_with_tuned_thresholds_are_compared_by_those(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tuned.db"
    for name, plain, tuned in (("a", 0.6, 0.61), ("b", 0.5, 0.65)):
        one = study(url, name, "f1", (tuned,), macro_f1=plain, macro_f1_tuned=tuned)
        one.set_user_attr("metric", "macro_f1_tuned")
    assert [(row.study, row.macro_f1_tuned) for row in best_rows.best(url) if row.overall] == [("b", 0.65)]
    study(url, "c", "f1", (0.55,))  # without tuned thresholds: now the score that all have is compared
    assert [row.study for row in best_rows.best(url) if row.overall] == ["a"]

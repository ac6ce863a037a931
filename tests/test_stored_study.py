"""Records that no sweep wrote, or that were changed in the database, are left out and reported; the rest works."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from peftsweep.comparison import compare
from peftsweep.errors import ForeignStudyError, StorageError
from peftsweep.storage import StoredStudy, Studies, claim, guarded, settle
from peftsweep.study import Halving, Ledger, best_rows, samplers, status_rows
from tests.stored import add_study, add_trial, evaluated, retrained, trial_attrs

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies, each of three complete trials and a pruned one."""
    file = tmp_path_factory.mktemp("whole") / "studies.db"
    for name in ("one", "two"):
        study = add_study(f"sqlite:///{file}", name)
        for value in (0.5, 0.7, 0.6):
            add_trial(study, value, evaluations=evaluated(value / 2, value), seconds=2.0, began=1000, ended=3000)
        add_trial(study, None, TrialState.PRUNED)
    return file


@pytest.fixture
def url(whole: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(whole, tmp_path)}"


def seen(url: str) -> tuple[Any, ...]:
    """What `best`, `status` and `compare` show of all studies, and what `best` warns of."""
    warned: list[str] = []
    best = [row.as_dict() for row in best_rows.best(url, warn=warned.append)]
    rows = status_rows.status(url)
    page = compare(url).as_dict()
    return json.loads(json.dumps([best, rows, page], allow_nan=False)), warned


def execute(url: str, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database, database:
        assert database.execute(statement, values).rowcount > 0


# Trials that did not come from the sweep ----------------------------------------------------------------------------


def test_foreign_trials_are_reported_once_and_change_nothing_that_is_shown(url: str) -> None:
    before, warned = seen(url)
    assert warned == []
    study = Studies(url).load("one")
    for value in (0.99, math.inf, -1e300):
        study.add_trial(create_trial(value=value, user_attrs={"scores": {"macro_f1": value}}))
    pruned = create_trial(state=TrialState.PRUNED, intermediate_values={1: 99.0}, user_attrs={"note": "mine"})
    study.add_trial(pruned)
    study.add_trial(create_trial(state=TrialState.FAIL))
    after, warned = seen(url)
    assert after == before
    (line,) = warned
    assert "study 'one'" in line
    assert line.endswith("trials 4, 5, 6, 7, 8 did not come from its sweep, and are left out")
    assert Studies(url).load("one").best_value == 0.7


def test_foreign_trials_affect_neither_the_sampler_nor_the_pruning(url: str, tmp_path: Path) -> None:
    from tests.test_trial_params import study as config_of

    config, drawn, decided = config_of("tpe"), [], []
    for strangers in (0, 6):
        copy = f"sqlite:///{shutil.copy(tmp_path / 'studies.db', tmp_path / f'{strangers}.db')}"
        trials = Studies(copy).load("one")
        for _ in range(strangers):
            trials.add_trial(create_trial(value=0.99, intermediate_values={1: 0.98}))
        decided.append(Halving(2, 1).decide({0: (1, 0.6), 1: (1, 0.4)}, Ledger(trials).rungs))
        at = create_trial(state=TrialState.RUNNING)
        at.number, at._trial_id = 50, trials.ask()._trial_id
        drawn.append(samplers.drawn(config, trials, at, {}))
    assert drawn[0] == drawn[1] and decided[0] == decided[1]


@pytest.mark.parametrize(
    "attrs",
    [
        {"scores": {}},
        {"scores": {"macro_f1": "high"}},
        {"scores": "none"},
        {"scores": {"macro_f1": 0.4, "micro_f1": 0.4, "accuracy": 0.4, "loss": 0.4}},  # differs from the trial's value
        {"params": {}},
        {"params": ["rank"]},
        {"step": None},
        {"step": -1},
        {"step": 1.5},
        {"seconds": "long"},
        {"seconds": math.nan},
        {"seconds": -2.0},
        {"evaluations": [1]},
        {"evaluations": {"1": 0.5}},
        {"evaluations": [{"index": 1}]},
        {"evaluations": evaluated(0.5, 0.6)[1:]},
        {"pauses": [[1]]},
        {"pauses": 7},
        {"parameters": 10**30},
        {"reason": {"x": "y" * 10**6}},
        {"began": "yesterday"},
        {"adapter": 3},
        {"adapter": "one/trial-0001/adapter"},  # as in trials that were added from another study
        {"seed": None},
        {"seconds": 1e308},
        {"params": {"rank": 10**400}},
        {"params": {"rank": math.inf}},
        {"params": {"rank": [[8]]}},
        {"params": {"rank": {"a": 8}}},
        {"params": {"rank": "\ud800"}},
        {"params": {"rank": "8" * 10**6}},
        {"parameters": math.nan},
        {"ended": 2**53},
        {"scores": {"macro_f1": 0.99, "micro_f1": 0.8, "accuracy": 1e308, "loss": 0.3}},
        {"scores": {"macro_f1": 0.99, "micro_f1": 0.8, "accuracy": 0.6, "loss": math.nan}},
        {"evaluations": [evaluated(0.5)[0] | {"epoch": 1e308}]},
        {"evaluations": [evaluated(0.5)[0] | {"at": -1}]},
    ],
    ids=lambda attrs: "-".join(map(str, attrs)),
)
def test_a_trial_with_a_value_that_no_sweep_writes_is_left_out_and_named(url: str, attrs: dict[str, Any]) -> None:
    study = Studies(url).load("one")
    add_trial(study, 0.99, **attrs)
    (best, *_), warned = seen(url)
    assert [row["trial"] for row in best] == [1, 1]
    (line,) = warned
    assert (
        "study 'one'" in line and "trial 4 cannot be read (" in line and next(iter(attrs)) in line
    ) or "value" in line
    assert len(line) < 500 and "\n" not in line


@pytest.mark.parametrize("value", [0.99, math.inf, -0.5, 10.0])
def test_a_value_that_is_not_the_trial_s_score_never_becomes_the_best(url: str, value: float) -> None:
    execute(url, "UPDATE trial_values SET value = ? WHERE trial_id = 1", 0.0 if math.isinf(value) else value)
    if math.isinf(value):
        execute(url, "UPDATE trial_values SET value_type = 'INF_POS', value = NULL WHERE trial_id = 1")
    (best, *_), warned = seen(url)
    assert [row["trial"] for row in best] == [1, 1] and "trial 0 cannot be read (its value is" in warned[0]


# Studies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trials", [0, 2])
@pytest.mark.parametrize("directions", [["maximize"], ["minimize"], ["maximize", "minimize"]])
def test_foreign_studies_are_left_out_with_one_line(url: str, directions: list[str], trials: int) -> None:
    before, _ = seen(url)
    for name in ("plain", "strange"):
        study = optuna.create_study(study_name=name, storage=url, directions=directions)
        study.set_user_attr("owner", "somebody")
        for _ in range(trials):
            study.add_trial(create_trial(values=[0.99] * len(directions)))
    after, warned = seen(url)
    assert after == before
    (line,) = warned
    assert line.endswith("not made by peftsweep and left out: 'plain', 'strange'")
    for command in (best_rows.best, status_rows.status, compare):
        with pytest.raises(ForeignStudyError, match=r"study 'plain' .* not made by"):
            command(url, ["plain"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config", {}),
        ("config", "lora"),
        ("config", {"model": {"id": 3}, "method": "lora", "data": {}, "space": {}}),
        ("labels", []),
        ("labels", ["a", "a"]),
        ("metric", "accuracy"),
        ("fingerprint", 1),
        ("experiment", None),
        ("total", "many"),
        ("described", [1]),
        ("test", {"trial": 1}),
        ("test", {"trial": 1, "scores": {"macro_f1": "good"}}),
        ("test", {"trial": 1, "scores": {}}),
        ("test", {"trial": 1, "scores": {"macro_f1": 1.5}}),
        ("described", {"device": 10**400}),
        ("retrained", [retrained(0, 0.5, behind={"mean": 0.1})]),
        ("retrained", [retrained(0, 0.5, test={"macro_f1_mean": 0.5})]),
        ("retrained", [{"trial": 0}]),
        ("retrained", [retrained(0, 0.5) | {"macro_f1_mean": "x"}]),
        ("mlflow_runs", {"parent": 7}),
        ("memory", {"planned_bytes": -1}),
        ("bound", {"key": 1}),
    ],
)
def test_a_study_with_a_value_that_no_sweep_writes_is_left_out_and_named(url: str, key: str, value: Any) -> None:
    execute(
        url,
        "UPDATE study_user_attributes SET value_json = ? WHERE study_id = 1 AND key = ?",
        json.dumps(value),
        key if key in ("config", "labels", "metric", "fingerprint", "experiment", "bound") else "key",
    )
    if key not in ("config", "labels", "metric", "fingerprint", "experiment", "bound"):
        execute(url, "UPDATE study_user_attributes SET key = ? WHERE study_id = 1 AND key = 'key'", key)
    (best, *_), warned = seen(url)
    assert [row["study"] for row in best] == ["two"]
    (line,) = warned
    assert "study 'one'" in line and key in line and line.endswith("it is left out") and len(line) < 500
    with pytest.raises(StorageError, match=r"study 'one' .* cannot be read"):
        best_rows.best(url, ["one"])


ROWS = {
    "trials SET state = 'FOO' WHERE trial_id = 1": "trial 0",
    "trials SET datetime_start = 'soon' WHERE trial_id = 2": "trial 1",
    "trial_values SET value_type = 'FOO' WHERE trial_id = 1": "trial 0",
    "trial_user_attributes SET value_json = '{' WHERE trial_id = 2": "trial 1",
    "trials SET state = CAST(x'ff' AS TEXT) WHERE trial_id = 1": "trial 0",
    "trials SET number = 'x' WHERE trial_id = 3": "a trial of number 'x'",
    "trial_user_attributes SET value_json = CAST(x'ff' AS TEXT) WHERE trial_id = 1": "trial 0",
    "study_user_attributes SET value_json = CAST(x'ff' AS TEXT) WHERE study_id = 1": "",
    "study_directions SET direction = 'UP' WHERE study_id = 1": "",
    "study_user_attributes SET value_json = 'nothing' WHERE study_id = 1": "",
}


@pytest.mark.parametrize("row", ROWS)
def test_what_optuna_cannot_read_is_reported_in_one_line_with_its_study_and_trial(url: str, row: str) -> None:
    execute(url, f"UPDATE {row}")
    (best, *_), warned = seen(url)
    assert [found["study"] for found in best] == ["two"]
    (line,) = warned
    assert "study 'one'" in line and ROWS[row] in line and "cannot be read" in line and "\n" not in line
    with pytest.raises(StorageError) as raised:
        best_rows.best(url, ["one"])
    assert "study 'one'" in str(raised.value) and ROWS[row] in str(raised.value)


def test_a_study_whose_name_is_not_text_is_left_out_and_named(url: str) -> None:
    execute(url, "UPDATE studies SET study_name = CAST(x'6f6eff' AS TEXT) WHERE study_id = 1")
    (best, *_), warned = seen(url)
    assert [found["study"] for found in best] == ["two"] and "study 'on\\udcff' is left out" in warned[0]


def test_if_no_study_can_be_read_no_command_says_that_there_is_none(url: str) -> None:
    execute(url, "UPDATE study_user_attributes SET value_json = '{}' WHERE key = 'config'")
    for command in (best_rows.best, status_rows.status, compare):
        with pytest.raises(StorageError, match=r"study 'one' .* cannot be read(.|\n)*study 'two' .* cannot be read"):
            command(url)


def test_unreadable_seeds_are_reported_and_hide_no_study(url: str) -> None:
    add_study(url, "one/retrain")
    execute(url, "UPDATE study_user_attributes SET value_json = '[]' WHERE study_id = 3 AND key = 'config'")
    warned: list[str] = []
    rows = status_rows.status(url, warn=warned.append)
    assert [(row["study"], row["retrain"]) for row in rows] == [("one", None), ("two", None)]
    (line,) = warned
    assert "study 'one/retrain'" in line and line.endswith("left out")


@pytest.mark.parametrize(
    ("statement", "missing"),
    [
        ("DROP TABLE trials", "the table trials"),
        ("DROP TABLE studies", "the table studies"),
        ("DROP TABLE trial_heartbeats", "the table trial_heartbeats"),
        ("ALTER TABLE trials RENAME COLUMN state TO x", "the column trials.state"),
        ("ALTER TABLE studies RENAME COLUMN study_name TO x", "the column study_name"),
    ],
)
def test_a_missing_table_or_column_is_named_and_not_created(url: str, statement: str, missing: str) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database, database:
        database.execute(statement)
    for command in (best_rows.best, status_rows.status, compare, Studies):
        with (
            pytest.raises(StorageError, match=f"{missing} is missing from the database")
            if command != Studies or ("table" in missing)
            else nullcontext()
        ):
            command(url)


def test_a_parameter_that_was_never_drawn_is_reported(url: str) -> None:
    study = Studies(url).load("one")
    trial = study.ask({"learning_rate": FloatDistribution(1e-4, 1e-2)})
    for key, value in trial_attrs(0.9).items():
        trial.set_user_attr(key, value)
    study.tell(trial, 0.9)
    for value in ("NULL", "5.0"):
        execute(url, f"UPDATE trial_params SET param_value = {value}")
        (best, *_), warned = seen(url)
        assert best[0]["trial"] == 1 and "trial 4 cannot be read (parameter learning_rate" in warned[0]


# Numbers ------------------------------------------------------------------------------------------------------------


def test_trials_with_the_same_number_are_neither_shown_nor_resumed(url: str) -> None:
    execute(url, "UPDATE trials SET number = 1 WHERE trial_id = 1")
    (best, statuses, _), warned = seen(url)
    assert [(row["study"], row["trial"]) for row in best] == [("two", 1), ("one", 2)]
    assert [row["complete"] for row in statuses] == [1, 3]
    assert warned[0].endswith("more than one trial has number 1; they are left out")
    with pytest.raises(StorageError, match=r"4 trials are not 0 to 3 \(more than one has 1\)"):
        Studies(url).load("one").check_numbers()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM trials WHERE trial_id = 2", "1 is missing"),
        ("UPDATE trials SET number = -1 WHERE trial_id = 1", "expected 0, found -1"),
        ("UPDATE trials SET number = 7 WHERE trial_id = 4", "3 is missing"),
    ],
)
def test_a_study_whose_next_trial_would_get_the_number_of_another_is_refused(
    url: str, statement: str, said: str
) -> None:
    Studies(url).load("one").check_numbers()
    execute(url, statement)
    with pytest.raises(StorageError, match=said):
        Studies(url).load("one").check_numbers()


# Deleted while it is used -------------------------------------------------------------------------------------------


def test_a_study_that_is_deleted_while_it_is_used_is_reported_in_one_line(url: str) -> None:
    study = Studies(url).load("one")
    trial = study.ask()
    optuna.delete_study(study_name="one", storage=url)
    for use in (lambda: trial.report(0.5, 1), lambda: study.tell(trial, 0.5), study.records, lambda: study.record):
        with pytest.raises(StorageError, match="the study was deleted while it was used here") as error, guarded(url):
            use()
        assert len(str(error.value).splitlines()) == 1
    late = sqlalchemy.text("INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (:trial, 'x', '1')")
    engine = Studies(url).storage.engine  # just after Optuna checked that the trial exists
    with pytest.raises(StorageError, match="study was deleted"), guarded(url), engine.begin() as connection:
        connection.execute(late, {"trial": trial._trial_id})


# Copies -------------------------------------------------------------------------------------------------------------


def owned(url: str, name: str) -> StoredStudy:
    """Load a study and settle where it belongs, as the holder of its lease does."""
    studies = Studies(url)
    study = studies.load(name)
    settle(study, studies.folder(name), studies.place)
    return study


def copy(url: str, to: str, name: str) -> StoredStudy:
    optuna.copy_study(from_study_name="one", from_storage=url, to_storage=to, to_study_name=name)
    return Studies(to).load(name)


def elsewhere(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/other.db"


@pytest.mark.parametrize("earlier", [False, True], ids=["now", "as version 0.1 stored it"])
def test_a_copy_under_another_name_is_another_study(url: str, earlier: bool) -> None:
    if earlier:
        add_trial(Studies(url).load("one"), 0.65, adapter="one/trial-0004/adapter")
        execute(url, "DELETE FROM study_user_attributes WHERE key = 'bound'")
    first = owned(url, "one")
    first.set_user_attr("mlflow_runs", {"parent": "run"})
    copy(url, url, "copy")
    if not earlier:
        assert Studies(url).load("copy").mlflow_runs == {}  # even before anything was written
    second = owned(url, "copy")
    assert second.record.key != first.record.key and second.mlflow_runs == {} and second.record.in_sync is False
    assert owned(url, "copy").record.key == second.record.key  # the key changes only once
    assert (first.record.key, first.mlflow_runs) == (owned(url, "one").record.key, {"parent": "run"})


def test_a_copy_in_another_storage_is_another_study_unless_its_folder_was_copied_too(url: str, tmp_path: Path) -> None:
    first, other = owned(url, "one"), elsewhere(tmp_path)
    copy(url, other, "one")
    assert owned(other, "one").record.key != first.record.key
    moved = f"sqlite:///{tmp_path}/moved.db"
    copy(url, moved, "one")
    shutil.copytree(tmp_path / "artifacts" / "one", tmp_path / "moved.db-artifacts" / "one")
    assert owned(moved, "one").record.key == first.record.key


def test_the_seeds_of_a_copy_belong_to_the_copy(url: str) -> None:
    first = owned(url, "one")
    add_study(url, "one/retrain", retrain_of=first.record.key)
    copy(url, url, "copy")
    optuna.copy_study(from_study_name="one/retrain", from_storage=url, to_storage=url, to_study_name="copy/retrain")
    main, studies = owned(url, "copy"), Studies(url)
    seeds = studies.retrained("copy")
    assert seeds is not None
    settle(seeds, studies.folder("copy/retrain"), studies.place, main)
    assert seeds.record.retrain_of == main.record.key != first.record.key


def test_a_folder_with_an_unreadable_owner_is_reported(url: str, tmp_path: Path) -> None:
    (tmp_path / "artifacts" / "one").mkdir(parents=True)
    for content in ("", "{}", "[]", '{"key": 3, "storage": "x"}', "\udcff"):
        (tmp_path / "artifacts" / "one" / "owner.json").write_text(content, errors="surrogateescape")
        with pytest.raises(StorageError, match=r"owner\.json cannot be read"):
            owned(url, "one")


def test_a_copied_database_that_shares_a_folder_leaves_it_to_the_original(url: str, tmp_path: Path) -> None:
    first, folder = owned(url, "one"), tmp_path / "artifacts" / "one"
    before = (folder / "owner.json").read_bytes()
    other = f"sqlite:///{shutil.copy(tmp_path / 'studies.db', tmp_path / 'other.db')}?artifacts={tmp_path}/artifacts"
    for _ in range(2):
        with pytest.raises(StorageError, match=r"artifacts of a study of the same name in sqlite:///.*/studies\.db"):
            owned(other, "one")
        assert Studies(other).load("one").record == first.record and (folder / "owner.json").read_bytes() == before
    assert owned(url, "one").record.key == first.record.key
    (tmp_path / "studies.db").unlink()  # it was moved
    assert owned(other, "one").record.key == first.record.key


def test_a_restored_database_is_refused_after_its_copy_was_run(url: str, tmp_path: Path) -> None:
    owned(url, "one")
    backup = shutil.copy(tmp_path / "studies.db", tmp_path / "backup.db")
    shutil.move(tmp_path / "studies.db", tmp_path / "moved.db")
    owned(f"sqlite:///{tmp_path}/moved.db?artifacts={tmp_path}/artifacts", "one")
    shutil.move(backup, tmp_path / "studies.db")
    with pytest.raises(StorageError, match=r"in sqlite:///.*/moved\.db; name another folder"):
        owned(url, "one")


def test_a_folder_that_two_names_share_belongs_to_the_first_study_until_it_is_deleted(url: str, tmp_path: Path) -> None:
    """This happens on a disk that ignores case; here a link has the same effect."""
    place, folder = Studies(url).place, tmp_path / "artifacts" / "one"
    first = owned(url, "one")
    before = (folder / "owner.json").read_bytes()
    (folder.parent / "One").symlink_to(folder)
    second = add_study(url, "One")
    refused = (
        r"artifacts/One has the artifacts of study 'one' of the same storage, .*; save the study file under another"
    )
    for take in (
        lambda: settle(second, folder.parent / "One", place),
        lambda: claim("ONE", folder.parent / "One", "key", place),
    ):
        with pytest.raises(StorageError, match=refused):
            take()
    assert (folder / "owner.json").read_bytes() == before and owned(url, "one").record == first.record
    claim("one", folder, "new", place)  # started anew, since it had no trials
    settle(first, folder, place)
    copy(url, url, "copy")
    optuna.delete_study(study_name="one", storage=url)
    settle(second, folder.parent / "One", place)


@pytest.mark.parametrize("sort", ["new", "copied"])
def test_a_folder_without_an_owner_is_refused_and_left_as_it_is(url: str, tmp_path: Path, sort: str) -> None:
    theirs = tmp_path / "artifacts" / "other" / "trial-0000" / "thesis.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    if sort == "copied":
        copy(url, url, "other")
    take = (
        (lambda: owned(url, "other")) if sort == "copied" else (lambda: claim("other", theirs.parents[1], "key", place))
    )
    place = Studies(url).place
    with pytest.raises(StorageError, match=r"artifacts/other has files but no owner\.json"):
        take()
    assert [file.name for file in theirs.parents[1].rglob("*")] == ["trial-0000", "thesis.txt"]
    owned(url, "one")  # the other study still works


def test_a_folder_of_a_version_that_recorded_no_owner_belongs_to_its_study(url: str, tmp_path: Path) -> None:
    (tmp_path / "artifacts" / "one" / "trial-0000").mkdir(parents=True)
    execute(url, "DELETE FROM study_user_attributes WHERE key = 'bound'")
    key = owned(url, "one").record.key
    (tmp_path / "artifacts" / "one" / "owner.json").write_text(json.dumps({"key": key, "storage": "sqlite:///gone.db"}))
    assert owned(url, "one").record.key == key  # as a version wrote it that stored only these two

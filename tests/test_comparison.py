"""Are the numbers of the comparison right? Each is compared with another way to compute it."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from sklearn.metrics import f1_score

from peftsweep.comparison import compare
from peftsweep.comparison.groups import front, holm
from peftsweep.comparison.history import best_so_far, busy, ends, importances, spans
from peftsweep.comparison.leaderboard import OverSeeds
from peftsweep.comparison.study_data import StudyData
from peftsweep.errors import StorageError, UsageError
from peftsweep.storage import Studies
from peftsweep.study import best_rows, trial_files
from peftsweep.task import Task
from tests.made_studies import best_folder, fill, predicted, storage, with_predictions
from tests.postgresql import Server
from tests.stored import add_study, evaluated, frozen_trial, record, retrained

THREE = Task("single-label", ("a", "b", "c"))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three studies on the same rows, of which `good` scores far above the others."""
    url = storage(tmp_path_factory.mktemp("compared"))
    for seed, (name, skill) in enumerate((("good", 1.2), ("fair", 0.7), ("same", 0.7))):
        fill(url, name, trials=30, rows=300, seed=seed, skill=skill)
    return url


# Significance -----------------------------------------------------------------------------------------------------


def noisy_guesses(rng: np.random.Generator, labels: np.ndarray, right: float) -> np.ndarray:
    return np.where(rng.random(len(labels)) < right, labels, (labels + rng.integers(1, 3, len(labels))) % 3)


@pytest.mark.parametrize(("studies", "rows"), [(20, 20_000), (30, 2_000)])
def test_among_many_studies_a_clear_difference_stays_clear(tmp_path: Path, studies: int, rows: int) -> None:
    rng = np.random.default_rng(10)
    labels = rng.integers(0, 3, rows)
    for i in range(studies):
        guess = noisy_guesses(rng, labels, 0.9 if i == 0 else 0.7)
        predicted(storage(tmp_path), f"study-{i:02d}", THREE, np.eye(3)[guess], labels)
    (group,) = compare(storage(tmp_path)).groups
    clear = [pair for pair in group.pairs if pair.first == "study-00"]
    assert group.studies[0] == "study-00" and len(group.pairs) == studies * (studies - 1) // 2
    assert len(clear) == studies - 1 and all(pair.p_holm < 0.001 for pair in clear)
    others = [pair for pair in group.pairs if pair.first != "study-00"]
    assert np.mean([pair.p_holm < 0.05 for pair in others]) < 0.05


@pytest.mark.parametrize("kind", ["single-label", "multi-label"])
def test_every_interval_contains_its_score_and_rare_labels_are_named(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(11)
    names = tuple(f"label-{i}" for i in range(77))
    task = Task("multi-label", names) if kind == "multi-label" else Task("single-label", names)
    labels = np.arange(200) % 77 if kind == "single-label" else (rng.random((200, 77)) < 0.02).astype(np.float32)
    for seed, noise in enumerate((0.2, 0.4, 0.45)):
        logits = 2.0 * task.one_hot(labels) - 1 + noise * rng.normal(size=(200, 77))
        predicted(storage(tmp_path), f"study-{seed}", task, logits.astype(np.float32), labels)
    found = compare(storage(tmp_path))
    for row in found.leaders:
        assert row.interval is not None and row.macro_f1 is not None
        assert row.interval[0] <= row.macro_f1 <= row.interval[1]
        assert (row.interval_tuned is not None) == task.multi_label
    rare = [name for name, rows in zip(names, task.one_hot(labels).sum(axis=0), strict=True) if rows < 3]
    assert len(found.groups[0].pairs) == 3 and found.groups[0].rare == rare != []
    assert all(pair.low <= pair.difference <= pair.high for pair in found.groups[0].pairs)


def test_holm_corrects_as_in_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


def test_nothing_beats_a_study_on_the_pareto_front() -> None:
    costs = {"a": 1.0, "b": 2.0, "c": 2.0, "d": 3.0, "e": 4.0}
    assert front(costs, {"a": 0.5, "b": 0.6, "c": 0.6, "d": 0.6, "e": 0.7}) == ["a", "b", "c", "e"]
    assert front({}, {}) == []


# Studies ----------------------------------------------------------------------------------------------------------


def test_the_leaderboard_has_the_best_trial_of_each_study_best_first(url: str) -> None:
    rows = {row.study: row for row in compare(url).leaders}
    assert next(iter(rows)) == "good"
    for best in best_rows.best(url):
        row = rows[best.study]
        assert (row.trial, row.macro_f1, row.micro_f1, row.loss) == (
            best.trial,
            best.macro_f1,
            best.micro_f1,
            best.loss,
        )
        assert row.macro_f1_tuned == best.macro_f1_tuned is not None
        assert row.interval is not None and row.interval[0] < best.macro_f1 < row.interval[1]
    trials = Studies(url).load("good").trials
    assert rows["good"].seconds == sum(trial.user_attrs["seconds"] for trial in trials)
    assert rows["good"].seconds_per_trial == pytest.approx(rows["good"].seconds / 30)
    assert rows["good"].complete + rows["good"].pruned == 30 and rows["good"].device == "GPU"


def test_the_best_trial_does_not_get_the_test_score_of_another(tmp_path: Path) -> None:
    url = storage(tmp_path)
    study = fill(url, "one", trials=8, rows=50)
    (best,) = best_rows.best(url)
    for trial, shown in ((best.trial, {"macro_f1": 0.8}), (best.trial + 1, None)):
        study.set_user_attr("test", {"trial": trial, "scores": {"macro_f1": 0.8}})
        assert compare(url).leaders[0].test == shown


def test_each_cost_has_its_own_front(tmp_path: Path) -> None:
    """`quick` takes less time and has more parameters than `small`, which scores better."""
    url = storage(tmp_path)
    for name, trials, seed, skill in (("quick", 4, 0, 0.3), ("small", 40, 5, 1.5)):
        fill(url, name, trials=trials, rows=50, seed=seed, skill=skill)
    (group,) = compare(url).groups
    rows = {row.study: row for row in compare(url).leaders}
    for found, cost in ((group.cheapest, "seconds"), (group.smallest, "parameters")):
        costs = {name: float(getattr(row, cost)) for name, row in rows.items()}
        assert found == front(costs, {name: row.macro_f1 or 0.0 for name, row in rows.items()})
    assert (group.cheapest, group.smallest) == (["quick", "small"], ["small"])


def test_pairs_are_tested_on_the_same_rows(url: str) -> None:
    group, *others = compare(url).groups
    assert others == [] and group.studies[0] == "good" and group.rows == 300
    assert len(group.pairs) == 3 and group.untested == {}
    first = group.pairs[0]
    scores = {row.study: row.macro_f1 for row in best_rows.best(url)}
    assert first.first == "good" and first.difference == pytest.approx(scores["good"] - scores[first.second])
    assert 0 < first.low < first.difference < first.high and first.p_holm < 0.001
    assert group.pairs[-1].p_holm > 0.05 and {group.pairs[-1].first, group.pairs[-1].second} == {"fair", "same"}


def test_with_many_rows_of_each_class_the_interval_equals_the_bootstrap_s(url: str) -> None:
    logits, labels = trial_files.predictions(best_folder(url, "good"))
    rng = np.random.default_rng(1)
    scores = [
        f1_score(labels[rows], logits[rows] > 0, average="macro", zero_division=0)
        for rows in rng.integers(300, size=(1000, 300))
    ]
    (row,) = compare(url, ["good"]).leaders
    assert row.macro_f1 is not None
    assert row.interval == pytest.approx(2 * row.macro_f1 - np.percentile(scores, (97.5, 2.5)), abs=0.004)


def test_importance_comes_from_optuna(url: str) -> None:
    study = Studies(url).load("good")
    wanted = optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())
    found = compare(url, ["good"]).histories[0].importance
    assert {name.replace("log2_", ""): round(value, 4) for name, value in wanted.items()} == found
    assert list(found) == sorted(found, key=lambda name: -found[name])


def test_the_f1_of_each_class_is_the_best_trial_s(url: str) -> None:
    (group,) = compare(url).groups
    logits, labels = trial_files.predictions(best_folder(url, "fair"))
    assert group.per_class["fair"] == pytest.approx(f1_score(labels, logits > 0, average=None))


def test_a_history_has_every_trial_and_the_best_so_far(url: str) -> None:
    history = next(history for history in compare(url).histories if history.study == "good")
    trials = Studies(url).load("good").trials
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert history.states == [{"COMPLETE": "complete", "PRUNED": "pruned"}[trial.state.name] for trial in trials]
    for trial, value in zip(trials, history.values, strict=True):
        highest = max(evaluation["scores"]["macro_f1"] for evaluation in trial.user_attrs["evaluations"])
        assert value == pytest.approx(trial.values[0] if trial.state == TrialState.COMPLETE else highest, rel=1e-4)
    for number, value in history.best_by_trial:
        assert value == pytest.approx(max(t.values[0] for t in complete if t.number <= number), abs=1e-5)
    assert history.best_by_trial[-1][0] == 29
    assert history.best_by_time[-1] == (
        max(end for end in history.ended if end is not None),
        history.best_by_trial[-1][1],
    )
    for trial, place, curve in zip(trials, history.ladder, history.curves, strict=True):
        assert history.ladders[place] == [e["epoch"] for e in trial.user_attrs["evaluations"]]
        assert curve == pytest.approx([e["scores"]["macro_f1"] for e in trial.user_attrs["evaluations"]], rel=1e-4)
    rank = next(axis for axis in history.axes if axis.name == "rank")
    assert (rank.scale, rank.low, rank.high) == ("log2", 4, 64) and set(rank.values) <= {4, 8, 16, 32, 64}


def test_a_trial_that_is_not_complete_has_the_score_of_its_best_evaluation(tmp_path: Path) -> None:
    study = fill(storage(tmp_path), "one", trials=4, rows=50)
    for scores in ([0.5, 0.7, 0.6], [0.5, float("nan")], [float("nan")], []):
        study.add_trial(frozen_trial(evaluations=evaluated(*scores)))
    (history,) = compare(storage(tmp_path)).histories
    assert history.values[4:] == [0.7, 0.5, None, None]


def test_pauses_between_runs_do_not_count() -> None:
    assert busy([(0, 20), (10, 20), (300, 310)]) == [(0, 20), (300, 310)]


def test_a_trial_did_not_run_during_its_pause() -> None:
    trial = record(frozen_trial(0.5, began=1000, pauses=[[11_000, 30_000]], ended=35_000))
    assert ends([trial]) == [15.0]
    runs = record(frozen_trial(state=TrialState.RUNNING, began=1000, pauses=[[11_000, 30_000]], ended=35_000))
    assert spans(runs) == [(1000, 11_000)]


def test_times_are_the_same_in_every_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna stores the local time of the machine that wrote it, without a time zone."""
    written = datetime(2026, 7, 1, 12, tzinfo=UTC)
    at = int(1000 * written.timestamp())
    trial = frozen_trial(0.5, began=at, ended=at + 120_000)
    trial.datetime_start, trial.datetime_complete = datetime(2026, 7, 1, 12), datetime(2026, 7, 1, 12, 2)
    for zone in ("UTC", "Europe/Berlin", "America/New_York"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        found = record(trial)
        assert (found.began, found.ended) == (at, at + 120_000) and ends([found]) == [120.0]
    earlier = frozen_trial(state=TrialState.RUNNING)  # written by a version that did not store times itself
    earlier.datetime_start = datetime(2026, 7, 1, 8)
    assert (record(earlier).began, record(earlier).ended) == (at, None)
    monkeypatch.undo()
    time.tzset()


def test_a_new_best_is_found_by_exact_values_not_by_rounded_ones() -> None:
    trials = [record(frozen_trial(value)) for value in (0.812344, 0.812342, 0.9)]
    assert best_so_far(enumerate(trials)) == [(0, 0.81234), (2, 0.9), (2, 0.9)]


def test_equal_values_have_no_importance(tmp_path: Path) -> None:
    study = add_study(storage(tmp_path), "one")
    for _ in range(20):
        study.add_trial(frozen_trial(0.5))
    data = StudyData("one", study, study.record, study.records(), tmp_path, "rows")
    assert importances(data) == ({}, "the complete trials do not differ")


def test_everything_is_json(url: str) -> None:
    json.dumps(compare(url).as_dict(), allow_nan=False)


# Missing parts ----------------------------------------------------------------------------------------------------


def test_a_study_without_a_complete_trial_has_a_row(tmp_path: Path) -> None:
    url = storage(tmp_path)
    study = fill(url, "one", trials=4, rows=50)
    empty, begun = (add_study(url, name, **study.user_attrs) for name in ("empty", "begun"))
    begun.add_trial(frozen_trial(state=TrialState.FAIL, evaluations=evaluated(float("nan"))))
    begun.ask()
    found = compare(url)
    rows = {row.study: row for row in found.leaders}
    assert list(rows) == ["one", "begun", "empty"]
    for name in (empty.study_name, "begun"):
        assert rows[name].trial is None and rows[name].lacking == ["no trial is complete yet"]
    assert (rows["begun"].failed, rows["begun"].running) == (1, 1)
    history = next(history for history in found.histories if history.study == "begun")
    assert history.values == [None, None] and history.curves == [[None], []] and history.best_by_trial == []
    json.dumps(found.as_dict(), allow_nan=False)


@pytest.mark.parametrize("how", ["gone", "broken", "of other rows"])
def test_without_its_predictions_a_study_shows_the_rest(tmp_path: Path, how: str) -> None:
    url = storage(tmp_path)
    for seed, name in enumerate(("one", "two")):
        fill(url, name, trials=6, rows=60, seed=seed)
    file = best_folder(url, "two") / trial_files.PREDICTIONS
    logits, labels = trial_files.predictions(file.parent)
    if how == "gone":
        file.unlink()
    elif how == "broken":
        file.write_bytes(file.read_bytes()[:50])
    else:
        with_predictions(url, "two", logits, 1 - labels)
    found = compare(url)
    row = next(row for row in found.leaders if row.study == "two")
    assert row.macro_f1 is not None and row.interval is None
    (group,) = found.groups
    assert group.pairs == [] and list(group.untested) == ["two"] and "two" in group.per_class
    assert group.untested["two"] == row.lacking[0].partition(": no interval")[0]


def test_a_study_of_an_earlier_version_is_compared_with_those_on_its_data(tmp_path: Path) -> None:
    url = storage(tmp_path)
    for seed, (name, data, rows) in enumerate((("old", "d1", None), ("new", "d1", "v1"), ("other", "d2", "v1"))):
        study = fill(url, name, trials=6, rows=60, seed=seed)
        study.set_user_attr("fingerprint", data)
        if rows is not None:
            study.set_user_attr("validation_fingerprint", rows)
    (group,) = compare(url).groups
    assert set(group.studies) == {"old", "new", "other"} and len(group.pairs) == 3
    assert [group.validation_fingerprint for group in compare(url, ["old"]).groups] == ["d1"]


def test_studies_on_different_data_are_in_different_groups(tmp_path: Path) -> None:
    url = storage(tmp_path)
    for seed, name in enumerate(("one", "two")):
        fill(url, name, trials=6, rows=60, seed=seed).set_user_attr("fingerprint", name)
    assert [(group.validation_fingerprint, group.pairs) for group in compare(url).groups] == [("one", []), ("two", [])]


def test_studies_that_optimise_tuned_scores_are_compared_by_tuned_scores(tmp_path: Path) -> None:
    url = storage(tmp_path)
    for seed, name in enumerate(("one", "two")):
        fill(url, name, trials=3, rows=200, seed=seed, objective="macro_f1_tuned")
    found = compare(url)
    (pair,) = found.groups[0].pairs
    assert all(row.interval_tuned[0] <= row.macro_f1_tuned <= row.interval_tuned[1] for row in found.leaders)  # type: ignore[index, operator]
    rows = {row.study: row for row in found.leaders}
    first, second = rows[pair.first].macro_f1_tuned, rows[pair.second].macro_f1_tuned
    assert first is not None and second is not None
    assert pair.score == "macro_f1_tuned" and pair.difference == pytest.approx(first - second)
    assert pair.low < pair.difference < pair.high


def test_seeds_are_reported_if_the_best_trial_was_retrained(url: str) -> None:
    study = Studies(url).load("good")
    best = best_rows.best(url, ["good"])[0].trial
    rows = [retrained(0, 0.7)]
    study.set_user_attr("retrained", rows)
    assert compare(url, ["good"]).leaders[0].retrained == OverSeeds(trial=0, seeds=3, mean=0.7, sd=0.01)
    study.set_user_attr("retrained", [*rows, retrained(best, 0.6, None)])
    assert compare(url, ["good"]).leaders[0].retrained == OverSeeds(trial=best, seeds=3, mean=0.6, sd=None)


def test_an_empty_storage_and_an_unknown_study_are_reported(url: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"studies\.db: .* not there"):
        compare(storage(tmp_path))
    with pytest.raises(UsageError, match="did you mean good"):
        compare(url, ["goood"])
    Studies(storage(tmp_path))  # a database without a study
    with pytest.raises(UsageError, match="nothing is stored in"):
        compare(storage(tmp_path))


def test_an_empty_database_is_reported_without_its_password(postgresql: Server) -> None:
    url = postgresql.database()
    Studies(url)
    with pytest.raises(UsageError, match=r"nothing is stored in postgresql://sweeper:\*\*\*@127"):
        compare(url)

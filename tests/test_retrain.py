"""`peftsweep retrain`: seeds of the best configurations, an unchanged sweep, and a test split that is scored once."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import signal
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import mlflow
import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from peft import PeftModel
from safetensors.torch import load_file, save_file
from scipy.stats import ttest_rel
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import peftsweep
from peftsweep import data as datasets
from peftsweep import progress, sweep
from peftsweep.config import load
from peftsweep.engine import Command, Event, ScoreTrial, Trial
from peftsweep.errors import StorageError, StudyBusyError, StudyMismatchError, UsageError
from peftsweep.methods import METHODS
from peftsweep.models import linear_names, load_tokenizer
from peftsweep.progress import result_lines
from peftsweep.storage import Retrained, StoredStudy, Studies
from peftsweep.study import results, space
from peftsweep.study.seeds import behind_first, means, still_wanted, summarised
from peftsweep.sweep import RetrainResult
from peftsweep.sweep.seed_judge import SeedJudge
from peftsweep.sweep.seed_supply import SeedSupply
from peftsweep.system.signals import StopSignal
from peftsweep.tracking import MlflowRuns, Tracker
from peftsweep.workers.worker import LocalWorker
from tests.numbers import same_weights
from tests.packs import Watched, base_of
from tests.stock_training import peft_alone
from tests.stored import add_study, add_trial, frozen_trial, record
from tests.studies import LABELS, Home, home, until
from tests.test_sweep import struck
from tests.tiny import tiny_rows, write

QUICK: dict[str, Any] = {
    "train": {"epochs": 4, "batch_size": 4, "evals_per_epoch": 1},
    "space": {"learning_rate": {"low": 1e-2, "high": 3e-2, "log": True}, "rank": [2, 4]},
}


@pytest.fixture
def here(tmp_path: Path) -> Home:
    return home(tmp_path / "home")


def with_test(place: Home, **changes: Any) -> Path:
    """A quick study that has a test split."""
    test = write(place.folder / "test.csv", tiny_rows(LABELS, 24, 3, single="label"))
    return place.study(**{**QUICK, **changes, "data": {"test": str(test)}})


def retrained(place: Home, study: Path, **options: Any) -> RetrainResult:
    options = {"storage": place.storage, "tracking_uri": place.tracking_uri, "seeds": 2, "top": 2} | options
    return peftsweep.retrain(study, **options)


def seeds_of(place: Home, study: str = "small") -> StoredStudy:
    found = Studies(place.storage).retrained(study)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Path, dict[str, Any]]:
    """A study that was run and retrained, its file, and what was stored and shown of it in between."""
    place = home(tmp_path_factory.mktemp("once") / "home")
    file = with_test(place)
    study = place.run(file).study
    before = {
        "trials": study.trials,
        "attrs": study.user_attrs,
        "best": peftsweep.best(place.storage),
        "status": peftsweep.status(place.storage),
    }
    retrained(place, file)
    return place, file, before


# What it trains -----------------------------------------------------------------------------------------------------


def test_each_of_the_best_gets_the_same_fresh_seeds(once: tuple[Home, Path, dict[str, Any]]) -> None:
    place, _, before = once
    best = results.ranked(Studies(place.storage).load("small").records())[:2]
    again = seeds_of(place).trials
    assert [t.state for t in again] == [TrialState.COMPLETE] * 4
    found = [(t.user_attrs["retrains"], t.user_attrs["replicate"], t.params) for t in again]
    assert found == [(t.number, replicate, t.drawn) for replicate in (1, 2) for t in best]
    seeds = {t.user_attrs["replicate"]: t.user_attrs["seed"] for t in again}
    assert {t.user_attrs["seed"] for t in again} == set(seeds.values()) and len(set(seeds.values())) == 2
    assert not set(seeds.values()) & {t.user_attrs["seed"] for t in before["trials"]}
    scores = [t.value for t in again]
    assert len(set(scores)) > 1  # the seed changes the score


def test_rows_are_means_over_the_fresh_seeds_alone_and_the_best_comes_first(
    once: tuple[Home, Path, dict[str, Any]],
) -> None:
    place, file, before = once
    rows = retrained(place, file).rows
    for row in rows:
        scores = [t.user_attrs["scores"] for t in seeds_of(place).trials if t.user_attrs["retrains"] == row["trial"]]
        for name in ("macro_f1", "micro_f1", "accuracy", "loss"):
            values = [each[name] for each in scores]
            assert row[f"{name}_mean"] == pytest.approx(fmean(values))
            assert row[f"{name}_std"] == pytest.approx(stdev(values))
        assert (row["seeds"], row["failed"], row["picked"]) == (2, 0, before["trials"][row["trial"]].value)
    assert rows[0]["macro_f1_mean"] >= rows[1]["macro_f1_mean"] and rows[0]["behind"] is None


@pytest.mark.numbers
def test_a_seed_is_trained_as_stock_peft_trains_it_alone(here: Home) -> None:
    file = here.study(**QUICK | {"train": {"epochs": 1, "batch_size": 8, "evals_per_epoch": 1, "weight_decay": 0.1}})
    here.run(file)
    retrained(here, file, top=1)
    config, ended = load(file), seeds_of(here).trials[1]
    params = config.hyperparameters(space.decode(config, ended.params))
    trial = Trial(0, ended.user_attrs["seed"], params, here.folder / "nothing")
    data = datasets.load(config.data, load_tokenizer(config.model), note=print, warn=print)
    base = base_of(here.folder / "base", data.task, "lora")
    method = METHODS["lora"](base.model, linear_names(base.model))
    pack = Watched(base.model, method, data.task, data.train, data.validation, candidates=[params], slots=1)
    pack.admit([trial])
    pack.release()
    _, weights = peft_alone(here.folder / "base", data.task, "lora", trial, pack.first[0], train=data.train)
    exported = {key: torch.empty_like(value) for key, value in weights.items()}
    method.read(here.adapter(1, "small/retrain").parent, exported, params)
    assert len(load_file(here.adapter(1, "small/retrain"))) == len(exported)
    same_weights(exported, weights, pack.first[0], pack.dtype)


def test_the_same_command_again_trains_nothing_and_more_seeds_are_added(here: Home) -> None:
    file = here.study(**QUICK)
    here.run(file)
    first = retrained(here, file)
    trials = seeds_of(here).trials
    again = retrained(here, file)
    assert first.seconds and again.seconds == {} and again.rows == first.rows
    assert seeds_of(here).trials == trials
    more = retrained(here, file, seeds=4)
    assert seeds_of(here).trials[:4] == trials and len(seeds_of(here).trials) == 8
    assert {row["seeds"] for row in more.rows} == {4}
    fewer = retrained(here, file, seeds=2, top=1)
    assert fewer.rows == more.rows and fewer.seconds == {}  # what was trained stays in the table


def test_every_seed_of_a_grid_of_few_points_is_trained_and_nothing_is_pruned(here: Home) -> None:
    grid = {"sampler": "grid", "trials": 9, "pruner": {"reduction": 2, "min_evals": 1}}
    file = here.study(**QUICK | {"space": {"learning_rate": [1e-2, 2e-2]}, "search": grid})
    complete = here.run(file).counts["complete"]
    retrained(here, file, seeds=3, slots=1)
    assert [trial.state for trial in seeds_of(here).trials] == [TrialState.COMPLETE] * 3 * complete


class Noted(progress.Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_fewer_complete_trials_than_asked_for_are_retrained_and_reported(here: Home) -> None:
    file = here.study(**QUICK)
    here.run(file, trials=1)
    shown = Noted()
    assert len(retrained(here, file, top=3, progress=shown).rows) == 1
    assert shown.notes[0] == (
        "retrain: 2 fresh seeds for each of the best of 'small': trial 0 "
        "(no other configuration of its trials is complete)"
    )


def test_trials_with_the_same_hyperparameters_are_one_configuration(here: Home) -> None:
    file, shown = here.study(**QUICK | {"space": {"rank": [2]}}), Noted()
    trials = here.run(file, trials=2).study.records()
    assert trials[0].drawn == trials[1].drawn
    (row,) = retrained(here, file, progress=shown).rows
    assert row["trial"] == results.ranked(trials)[0].number
    assert "no other configuration" in shown.notes[0]


# What stays as it was -----------------------------------------------------------------------------------------------


def test_the_study_and_what_commands_show_of_it_stay_as_they_were(once: tuple[Home, Path, dict[str, Any]]) -> None:
    place, _, before = once
    study = Studies(place.storage).load("small")
    assert study.trials == before["trials"]
    attrs = study.user_attrs
    assert attrs.pop("retrained")[0]["seeds"] == 2
    assert attrs == before["attrs"]
    (now,), (then,) = peftsweep.status(place.storage), before["status"]
    assert now | {"retrain": None} == then and now["retrain"]["done"] == now["retrain"]["total"] == 4
    (best,), (was,) = peftsweep.best(place.storage), before["best"]
    assert best.as_dict() | {"retrained": None} == was.as_dict() and best.retrained is not None
    with pytest.raises(UsageError, match="would lead into another folder"):
        peftsweep.best(place.storage, ["small/retrain"])


def test_the_search_learns_nothing_from_seeds(tmp_path: Path) -> None:
    sampled = []
    for again in (False, True):
        place = home(tmp_path / str(again))
        file = place.study(**QUICK, search={"sampler": "tpe", "trials": 5})
        place.run(file, slots=1)
        if again:
            retrained(place, file, seeds=3)
        sampled.append([trial.params for trial in place.run(file, trials=7, slots=1).study.trials])
    assert sampled[0] == sampled[1] and len(sampled[0]) == 7


def test_the_page_has_the_means_at_once_and_is_drawn_again_after_mlflow_was_down(
    once: tuple[Home, Path, dict[str, Any]], here: Home
) -> None:
    place, _, before = once
    page = text_of(place)
    (best,) = before["best"]
    assert f"trial {best.trial}, 2 seeds" in page
    file = here.study(**QUICK)
    here.run(file)
    retrained(here, file, tracking_uri="http://127.0.0.1:9")
    (here.folder / "artifacts" / "comparison.html").unlink()
    assert retrained(here, file).seconds == {}  # nothing to train: only MLflow is updated
    assert ", 2 seeds" in text_of(here)


def text_of(place: Home) -> str:
    """The text of the comparison's page, without tags."""
    page = (place.folder / "artifacts" / "comparison.html").read_text()
    return re.sub(r"<[^>]*>", "", page.partition("<body")[2])


# Stopping and resuming ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, list[dict[str, Any]]]:
    """A study that was run and retrained in one slot, and its rows."""
    place = home(tmp_path_factory.mktemp("never") / "home")
    file = with_test(place)
    place.run(file, slots=1, trials=2)
    return place, retrained(place, file, slots=1).rows


@pytest.mark.parametrize(
    "moment",
    [
        "peftsweep.storage:Studies.begin 3",
        "peftsweep.sweep.trial_params:complete 2",
        "peftsweep.sweep.study_judge:StudyJudge.report 6",
        "peftsweep.storage:StoredStudy.end 3",
        "peftsweep.engine.evaluation:Evaluator.on_test 1",
    ],
)
def test_a_killed_command_resumes_and_ends_with_the_same_adapters_byte_for_byte(
    never_killed: tuple[Home, list[dict[str, Any]]], tmp_path: Path, moment: str
) -> None:
    (never, rows), killed = never_killed, home(tmp_path / "killed", mlflow=False)
    killed.run(with_test(killed, model={"id": str(never.folder / "base")}), slots=1, trials=2)
    words = ("retrain", "--study", str(killed.folder / "small.yaml"), "--seeds", "2", "--top", "2", "--slots", "1")
    done = struck(killed, moment, [signal.SIGKILL], *words)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert retrained(killed, killed.folder / "small.yaml", slots=1).rows == rows
    ours, theirs = seeds_of(killed).trials, seeds_of(never).trials
    assert [(t.state, t.params, t.values) for t in ours] == [(t.state, t.params, t.values) for t in theirs]
    kept = [n for n in range(4) if never.adapter(n, "small/retrain").is_file()]
    assert len(kept) == 2
    for number in kept:
        ours_, theirs_ = (place.adapter(number, "small/retrain") for place in (killed, never))
        assert ours_.read_bytes() == theirs_.read_bytes()


def test_ctrl_c_keeps_everything_and_says_how_to_resume(here: Home) -> None:
    file = here.study(**QUICK | {"train": {"epochs": 12, "batch_size": 4, "evals_per_epoch": 1}})
    here.run(file, trials=2)
    words = ("retrain", "--study", str(file), "--seeds", "2", "--slots", "2")
    process = here.start(*words)
    until(lambda: here.checkpoints(0, "small/retrain"), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    last = err.splitlines()[-1]
    assert last.startswith("stopped; everything is kept") and last.endswith(f": peftsweep {' '.join(words)}")
    assert "retrained" not in Studies(here.storage).load("small").user_attrs
    assert not [run for run in here.runs() if run.info.status == "RUNNING"]
    assert [row["seeds"] for row in retrained(here, file).rows] == [2, 2]


def test_seeds_that_were_asked_for_by_mistake_are_not_trained_by_a_call_for_fewer(here: Home) -> None:
    file = here.study(**QUICK)
    here.run(file)
    words = ("retrain", "--study", str(file), "--seeds", "9", "--top", "3", "--slots", "1")
    assert struck(here, "peftsweep.storage:StoredStudy.end 4", [signal.SIGINT], *words).returncode == 130
    begun = seeds_of(here).trials
    seeds_of(here).enqueue_trial({}, user_attrs={"retrains": 0, "replicate": 9})  # as an earlier version left them
    rows = retrained(here, file, seeds=2, top=2).rows
    states = [t.state for t in seeds_of(here).trials]
    assert states.count(TrialState.WAITING) == 1 and states.count(TrialState.RUNNING) == 0
    begun_now = [t for t in seeds_of(here).trials if t.state != TrialState.WAITING]
    found = [(t.user_attrs["retrains"], t.user_attrs["replicate"]) for t in begun_now]
    first, second, third = (t.number for t in results.ranked(Studies(here.storage).load("small").records()))
    assert found[:3] == [(first, 1), (second, 1), (third, 1)] and len(begun) in (4, 5)
    assert set(found) == {(t.user_attrs["retrains"], t.user_attrs["replicate"]) for t in begun} | {
        (number, replicate) for number in (first, second) for replicate in (1, 2)
    }
    assert {row["trial"]: row["seeds"] for row in rows} == {first: 2, second: 2, third: 1}
    assert Studies(here.storage).load("small").user_attrs["retrained"] == rows


# The test split -----------------------------------------------------------------------------------------------------


def test_the_seeds_of_the_best_score_the_test_split_as_stock_peft_does(
    once: tuple[Home, Path, dict[str, Any]],
) -> None:
    place, file, before = once
    first, second = retrained(place, file).rows
    assert second["test"] is None and first["test"]["seeds"] == 2
    numbers = [t.number for t in seeds_of(place).trials if t.user_attrs["retrains"] == first["trial"]]
    scores = [stock_macro_f1(place, place.adapter(number, "small/retrain").parent) for number in numbers]
    assert first["test"]["macro_f1_mean"] == pytest.approx(fmean(scores))
    assert first["test"]["macro_f1_std"] == pytest.approx(stdev(scores))
    assert peftsweep.best(place.storage)[0].test == before["best"][0].test is not None  # the sweep's own score stays


def stock_macro_f1(place: Home, adapter: Path) -> float:
    """Macro-F1 on the test split, by plain transformers and peft."""
    tokenizer = AutoTokenizer.from_pretrained(place.folder / "base")
    base = AutoModelForSequenceClassification.from_pretrained(place.folder / "base", num_labels=len(LABELS))
    model = PeftModel.from_pretrained(base, adapter).eval()
    rows = tiny_rows(LABELS, 24, 3, single="label")
    with torch.inference_mode():
        found = [LABELS[int(model(**tokenizer(row["text"], return_tensors="pt")).logits.argmax())] for row in rows]
    return float(f1_score([row["label"] for row in rows], found, average="macro", labels=LABELS))


def test_the_test_split_is_never_scored_again(here: Home) -> None:
    looks: list[int] = []

    class Counting(LocalWorker):
        def advance(self, commands: Iterable[Command]) -> list[Event]:
            commands = list(commands)
            looks.extend(command.trial.number for command in commands if isinstance(command, ScoreTrial))
            return super().advance(commands)

    file = with_test(here)
    here.run(file)
    first = retrained(here, file, start=Counting).rows
    assert len(looks) == 2
    more = retrained(here, file, seeds=3, top=3, start=Counting).rows
    assert len(looks) == 2
    (scored,) = [row for row in more if row["test"]]
    assert (scored["trial"], scored["seeds"], scored["test"]) == (first[0]["trial"], 3, first[0]["test"])
    optuna.delete_study(study_name="small/retrain", storage=here.storage)  # as if it had not been moved with the study
    anew = retrained(here, file, seeds=2, top=3, start=Counting).rows
    assert len(looks) == 2 and [row["test"] for row in anew if row["test"]] == [scored["test"]]


class Heard(progress.Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def remove_test_score_and_break_adapters(place: Home, study: str) -> None:
    with closing(sqlite3.connect(place.folder / "studies.db")) as database, database:
        named = "(SELECT study_id FROM studies WHERE study_name = ?)"
        gone = f"DELETE FROM study_user_attributes WHERE key = 'test' AND study_id = {named}"
        assert database.execute(gone, (study,)).rowcount == 1
    for adapter in (place.folder / "artifacts" / study).glob("trial-*/adapter/adapter_model.safetensors"):
        save_file({name: value * math.nan for name, value in load_file(adapter).items()}, adapter)


def test_scores_on_the_test_split_that_are_not_finite_are_null_and_the_study_stays_readable(here: Home) -> None:
    """As if a process had died before it scored the test split, and the adapters gave no finite score."""
    file, heard, again = with_test(here), Heard(), Heard()
    here.run(file)
    remove_test_score_and_break_adapters(here, "small")
    best = here.run(file, progress=heard).best
    retrained(here, file)
    remove_test_score_and_break_adapters(here, "small/retrain")
    names = ["macro_f1", "micro_f1", "accuracy", "jaccard", "loss"]
    lost = "are not finite; recorded as null, and never scored again"
    assert best is not None and best.test == dict.fromkeys(names)
    assert [line for line in heard.warnings if "test split" in line] == [
        f"test split: trial {best.trial}: {', '.join(names)} {lost}"
    ]
    first, *_ = retrained(here, file, progress=again).rows
    averages = [f"{name}_mean" for name in names]
    assert first["test"] == {"seeds": 2, **dict.fromkeys(averages), **{f"{name}_std": None for name in names}}
    assert [line for line in again.warnings if "test split" in line] == [
        f"test split: trial {first['trial']}: {', '.join(averages)} {lost}"
    ]
    for command in ("best", "status", "compare", "sync"):
        answer = here.call(command)
        assert answer.returncode == 0 and "left out" not in answer.stderr, answer.stderr
    assert f"test split: trial {best.trial}, macro-F1 not finite" in here.call("best").stdout
    assert "macro-F1 not finite over 2 seeds" in "\n".join(result_lines.verdict([Retrained.model_validate(first)]))


def test_scores_that_an_earlier_version_recorded_as_nan_are_read(here: Home) -> None:
    file = with_test(here)
    here.run(file, trials=1)
    study = Studies(here.storage).load("small")
    study.set_user_attr("test", {"trial": 0, "scores": dict.fromkeys(study.user_attrs["test"]["scores"], math.nan)})
    (row,) = peftsweep.best(here.storage)
    assert row.test is not None and set(row.test.values()) == {None}


def test_the_test_split_waits_until_the_study_is_done(here: Home) -> None:
    file, shown = with_test(here), Noted()
    here.run(file, trials=1)
    Studies(here.storage).load("small").set_user_attr("total", 3)  # as `run --timeout` leaves it
    assert [row["test"] for row in retrained(here, file, progress=shown).rows] == [None]
    assert "'small' is not done (1 of 3 trials)" in shown.notes[1]
    assert shown.notes[1].endswith("peftsweep run --study small")
    here.run(file, trials=2)
    rows = retrained(here, file).rows
    assert rows[0]["test"]["seeds"] == 2 and [row["test"] for row in rows[1:]] == [None]


def test_only_the_adapters_of_the_best_configuration_s_best_seeds_stay(here: Home) -> None:
    file = here.study(**QUICK, search={"keep_adapters": 1})
    here.run(file)
    first, _ = retrained(here, file).rows
    ours = [t for t in seeds_of(here).records() if t.retrains == first["trial"]]
    kept = [t.number for t in seeds_of(here).trials if here.adapter(t.number, "small/retrain").is_file()]
    assert kept == [results.ranked(ours)[0].number]
    assert here.adapter(results.ranked(Studies(here.storage).load("small").records())[0].number).is_file()


def judge_of(place: Home, file: Path, again: StoredStudy) -> SeedJudge:
    config, studies = load(file), Studies(place.storage)
    data = datasets.load(config.data, load_tokenizer(config.model), note=print, warn=print)
    main, tracker = studies.load("small"), Tracker(MlflowRuns(place.tracking_uri), note=print)
    best = results.ranked(main.records())
    return SeedJudge(SeedSupply(config, main, again, best, 2, studies), data, tracker, progress.Silent(), StopSignal())


def test_adapters_outlive_a_change_of_the_best_configuration_even_those_that_were_tested(here: Home) -> None:
    file = with_test(here, search={"keep_adapters": 2})
    here.run(file, trials=2)
    again = add_study(here.storage, "small/retrain")
    for replicate, scores in enumerate([(0.7, 0.6), (0.7, 0.6), (0.7, 0.6), (0.1, 0.5), (0.1, 0.4), (0.1, 0.3)], 1):
        for number, score in enumerate(scores):
            seed = add_trial(again, score, retrains=number, replicate=replicate)
            if (number == 0 and replicate > 1) or replicate > 3:  # the others were removed when trial 0 was the best
                here.adapter(seed, "small/retrain").parent.mkdir(parents=True)
    again.set_user_attr("test", {"trial": 0, "seeds": 3, "scores": {"macro_f1_mean": 0.5}})
    judge_of(here, file, again).close()
    kept = [t.number for t in again.trials if here.adapter(t.number, "small/retrain").parent.is_dir()]
    assert kept == [2, 4, 7, 9]  # the second and third seed of trial 0, the fourth and fifth of trial 1


# MLflow -------------------------------------------------------------------------------------------------------------


def tree(place: Home) -> dict[str, set[str]]:
    """Names of runs, each with those nested under it."""
    runs = {run.info.run_id: run for run in place.runs()}
    found: dict[str, set[str]] = {}
    for run in runs.values():
        above = runs.get(run.data.tags.get("mlflow.parentRunId", ""))
        found.setdefault(above.info.run_name if above else "", set()).add(run.info.run_name)
    return found


def wanted(place: Home) -> dict[str, set[str]]:
    seeds = [(trial.user_attrs["retrains"], trial.user_attrs["replicate"]) for trial in seeds_of(place).trials]
    return {
        "": {"small"},
        "small": {"small/retrain", "trial-0000", "trial-0001", "trial-0002"},
        "small/retrain": {f"{trial} seed {seed}" for trial, seed in seeds},
    }


def test_the_runs_of_seeds_are_nested_under_the_study_tagged_and_rebuilt(
    once: tuple[Home, Path, dict[str, Any]],
) -> None:
    place, file, _ = once
    first, _ = retrained(place, file).rows
    assert tree(place) == wanted(place)

    def in_mlflow() -> tuple[Any, ...]:
        (own,) = [run for run in place.runs() if run.info.run_name == "small/retrain"]
        tagged = [{k: v for k, v in run.data.tags.items() if "retrain" in k} for run in place.runs()]
        return own.data.metrics, own.info.status, sorted(map(str, tagged))

    metrics, status, tags = before = in_mlflow()
    assert status == "FINISHED" and sum("'peftsweep.retrains': '" in each for each in tags) == 4
    assert metrics["macro_f1_mean"] == pytest.approx(first["macro_f1_mean"])
    assert metrics["test_macro_f1_std"] == pytest.approx(first["test"]["macro_f1_std"])
    assert not any(name.startswith("best_") for name in metrics)
    client = mlflow.MlflowClient(tracking_uri=place.tracking_uri)
    for run in place.runs():
        client.delete_run(run.info.run_id)
    options = {"storage": place.storage, "tracking_uri": place.tracking_uri}
    assert sweep.sync(**options) == {"small": "written"}
    assert tree(place) == wanted(place) and in_mlflow() == before
    assert sweep.sync(**options) == {"small": "in sync"}


def test_seeds_that_mlflow_got_before_the_study_are_nested_by_sync(here: Home) -> None:
    file = here.study(**QUICK)
    here.run(file, tracking_uri="http://127.0.0.1:9")
    retrained(here, file)
    assert tree(here)[""] == {"small/retrain"}
    assert sweep.sync(storage=here.storage, tracking_uri=here.tracking_uri) == {"small": "written"}
    assert tree(here) == wanted(here)
    assert sweep.sync(storage=here.storage, tracking_uri=here.tracking_uri) == {"small": "in sync"}


def test_one_complete_seed_has_no_standard_deviation_and_sync_writes_the_rest(here: Home) -> None:
    file = here.study(**QUICK)
    here.run(file, trials=1)
    retrained(here, file)
    again = seeds_of(here)
    again.set_user_attr("summary", means([again.trials[0].user_attrs["scores"]]))  # as if the other had diverged
    again.set_user_attr("mlflow_level", False)
    assert again.user_attrs["summary"]["macro_f1_std"] is None
    assert sweep.sync(storage=here.storage, tracking_uri=here.tracking_uri) == {"small": "written"}
    assert sweep.sync(storage=here.storage, tracking_uri=here.tracking_uri) == {"small": "in sync"}


# What cannot be retrained -------------------------------------------------------------------------------------------


def test_a_study_that_has_not_been_run_is_refused_and_nothing_is_created(here: Home) -> None:
    file = here.study(**QUICK)
    with pytest.raises(StorageError, match=r"studies\.db: .* not there"):
        retrained(here, file)
    assert not (here.folder / "studies.db").exists()
    here.run(file, timeout=0.0)
    with pytest.raises(UsageError, match=r"has no complete trial yet; go on with: peftsweep run --study small"):
        retrained(here, file)
    with pytest.raises(UsageError, match=r"no study 'smal' in .*; did you mean small"):
        retrained(here, here.study("smal", **QUICK))
    assert Studies(here.storage).retrained("small") is None


def test_another_file_other_rows_and_a_running_study_are_refused(here: Home) -> None:
    file = here.study(**QUICK)
    here.run(file, trials=1)
    with pytest.raises(StudyMismatchError, match=r"train\.epochs: 4 in the storage, 5 in the file"):
        retrained(here, file, overrides={"train.epochs": 5})
    with Studies(here.storage).lease("small"), pytest.raises(StudyBusyError, match="is being run by process"):
        retrained(here, file)
    write(here.folder / "train.csv", tiny_rows(LABELS, 48, 7, single="label"))
    with pytest.raises(StudyMismatchError, match="fingerprint"):
        retrained(here, file)
    assert Studies(here.storage).retrained("small") is None


def test_seeds_of_a_study_that_was_deleted_are_not_mixed_with_those_of_a_new_one(here: Home) -> None:
    file = here.study(**QUICK)
    here.run(file, trials=1)
    retrained(here, file)
    optuna.delete_study(study_name="small", storage=here.storage)
    shutil.rmtree(here.folder / "artifacts")
    here.run(file, trials=1)
    with pytest.raises(
        StudyMismatchError, match="seeds of an earlier study 'small', which is gone; delete it too: optuna"
    ):
        retrained(here, file)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seeds": 1}, "at least 2, got 1"),
        ({"seeds": 2.5}, "got 2.5"),
        ({"top": 0}, "at least 1, got 0"),
        ({"slots": 0}, "'auto' or a whole number of at least 1, got 0"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        peftsweep.retrain("demo", **options)
    assert str(error.value).startswith(f"{next(iter(options))}: ") and said in str(error.value)


# Rows and their table -----------------------------------------------------------------------------------------------


def test_the_intervals_are_those_of_paired_t_tests_corrected_for_all_pairs() -> None:
    first, second, third = [0.71, 0.74, 0.69, 0.73, 0.72], [0.70, 0.71, 0.70, 0.69, 0.71], [0.6, 0.7, 0.5, 0.6]
    rows = [dict(enumerate(first)), dict(enumerate([*second, 0.1])), dict(enumerate(third)), {9: 0.5}]
    near, far, none = behind_first(rows)  # the sixth seed of the second has no partner
    for found, other, count in ((near, second, 5), (far, third, 4)):
        wanted = ttest_rel(first[:count], other).confidence_interval(1 - 0.05 / 3)
        assert found is not None and (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
        assert (found.mean, found.seeds) == (pytest.approx(fmean(first[:count]) - fmean(other)), count)
        assert found.pairs == 3
    assert none is None and behind_first(rows[:1]) == behind_first([]) == []
    (alone,) = behind_first(rows[:2])
    wanted = ttest_rel(first, second).confidence_interval(0.95)  # two configurations are one pair
    assert alone is not None and (alone.low, alone.high) == pytest.approx((wanted.low, wanted.high))


@pytest.mark.parametrize(("top", "seeds"), [(3, 3), (3, 5), (10, 3), (10, 10)])
def test_equal_configurations_are_rarely_reported_to_be_behind(top: int, seeds: int) -> None:
    """In at most 6 % of tables, even if one varies more from seed to seed than the others."""
    rng, tables, wrong = np.random.default_rng(4), 300, 0
    for table in range(tables):
        spread = np.where(np.arange(top) == 0, 1 + 3 * (table % 2), 1)
        scores = sorted(spread[:, None] * rng.normal(size=(top, seeds)) + rng.normal(size=seeds), key=np.mean)[::-1]
        found = behind_first([dict(enumerate(map(float, own))) for own in scores])
        wrong += any(row is not None and row.low > 0 for row in found)
    assert wrong / tables <= 0.06


def rows_of(folder: Path, *configurations: tuple[float, list[float | None]]) -> list[Retrained]:
    """Rows of configurations with these scores in the sweep, and these with their seeds (None: the seed failed)."""
    url = f"sqlite:///{folder}/studies.db"
    main, again = add_study(url, "a"), add_study(url, "a/retrain")
    for number, (picked, scores) in enumerate(configurations):
        add_trial(main, picked, params={"rank": 4 * number, "epochs": 3})
        for replicate, score in enumerate(scores, 1):
            same = {} if score is None else dict.fromkeys(("macro_f1", "micro_f1", "accuracy"), score)
            own = same if score is None else same | {"loss": 1 - score}
            state = TrialState.FAIL if score is None else TrialState.COMPLETE
            add_trial(again, score, state, scores=own, retrains=number, replicate=replicate)
    return summarised(main, again)


def test_a_million_seeds_are_not_listed_before_the_first_starts() -> None:
    best = [record(frozen_trial(0.9)), record(frozen_trial(0.8))]
    best = [trial.model_copy(update={"number": number}) for trial, number in zip(best, (7, 3), strict=True)]
    wanted, count = still_wanted(best, 1_000_000, {(7, 1), (3, 2), (5, 1), (3, 2_000_000)})
    assert count == 2_000_000 - 2
    found = [(trial.number, replicate) for trial, replicate in islice(wanted, 4)]
    assert found == [(3, 1), (7, 2), (7, 3), (3, 3)]


def test_a_configuration_with_a_failed_seed_comes_last(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, (0.9, [0.9, 0.9, None]), (0.8, [0.6, 0.7, 0.8]), (0.7, [None, None, None]))
    assert [(row.trial, row.seeds, row.failed) for row in rows] == [(1, 3, 0), (0, 2, 1), (2, 0, 3)]
    figures = rows[0].figures
    assert figures["macro_f1_mean"] == pytest.approx(0.7) and figures["macro_f1_std"] == pytest.approx(0.1)
    assert rows[1].behind is not None and rows[1].behind.seeds == 2 and rows[2].behind is None
    text = io.StringIO()
    progress.retrained_table(rows, text)
    assert "2, 1 failed" in text.getvalue() and "0, 3 failed" in text.getvalue()


def lines(folder: Path, *configurations: tuple[float, list[float | None]]) -> list[str]:
    text = io.StringIO()
    progress.retrained_table(rows_of(folder, *configurations), text)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_a_winner_within_the_noise_is_not_called_sure_and_a_changed_order_is_reported(tmp_path: Path) -> None:
    found = lines(tmp_path, (0.80, [0.70, 0.74, 0.72]), (0.79, [0.74, 0.72, 0.73]))
    columns = "trial sweep score seeds macro-F1 micro-F1 accuracy loss behind"
    assert found[0].split() == columns.split()
    assert found[1].split()[:6] == ["1", "0.790", "3", "0.730", "±", "0.010"]
    assert found[-5:] == [
        "trial 1: rank 4",
        "trial 0: rank 0",
        "trial 1 has the best mean macro-F1, 0.730 ± 0.010; its score in the sweep was 0.790 (0.060 higher)",
        "trial 0 is behind by 0.010 (-0.065 to 0.085), the 95 % interval over 3 seeds: within the noise of the seeds",
        "the sweep had the order 0, 1",
    ]


def test_tuned_scores_of_seeds_are_called_tuned(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, (0.80, [0.70, 0.74, 0.72]), (0.79, [0.74, 0.72, 0.73]))
    tuned = {"objective": "macro_f1_tuned", "macro_f1_tuned_mean": 0.9, "macro_f1_tuned_std": 0.01}
    text = io.StringIO()
    progress.retrained_table([Retrained.model_validate(row.as_dict() | tuned) for row in rows], text)
    assert text.getvalue().split()[4:7] == ["macro-F1", "tuned", "macro-F1"]
    assert "has the best mean tuned macro-F1, 0.900 ± 0.010" in text.getvalue()


def test_a_winner_by_more_than_the_noise_is_reported(tmp_path: Path) -> None:
    found = lines(tmp_path, (0.72, [0.74, 0.75, 0.76]), (0.71, [0.70, 0.70, 0.71]))
    assert "(0.030 lower)" in found[-3]
    assert found[-2].endswith("over 3 seeds: more than the noise of the seeds")
    assert found[-1] == "the sweep had the same order"


def test_configurations_are_ranked_by_the_seeds_that_all_have(tmp_path: Path) -> None:
    more = [0.70, 0.70, 0.71, 0.90, 0.90, 0.90]
    rows = rows_of(tmp_path, (0.8, more), (0.7, [0.74, 0.75, 0.76]), (0.6, [0.99]))
    assert [(row.trial, row.seeds, row.shared) for row in rows] == [(1, 3, 3), (0, 6, 3), (2, 1, 3)]
    assert rows[1].figures["macro_f1_mean"] == pytest.approx(fmean(more))
    assert rows[1].behind is not None and rows[1].behind.mean > 0
    text = result_lines.verdict(rows)
    assert text[1].endswith("; too few seeds for trial 2") and "more than" in text[1]
    (tmp_path / "other").mkdir()
    (first, *_) = lines(tmp_path / "other", (0.8, [0.74, 0.75, 0.76, 0.9]), (0.7, [0.70, 0.70, 0.71]))[-3:]
    assert first.startswith(
        "trial 0 has the best mean macro-F1, by the 3 seeds that all have; over its 4: 0.787 ± 0.075; "
    )


def test_the_first_is_sure_only_if_it_is_ahead_of_all_and_one_that_is_ahead_of_it_is_reported(tmp_path: Path) -> None:
    for name in ("all", "one", "ahead"):
        (tmp_path / name).mkdir()
    clear, wide = [0.70, 0.70, 0.71], [0.76, 0.60, 0.75]
    found = lines(tmp_path / "all", (0.8, [0.74, 0.75, 0.76]), (0.7, clear), (0.6, [0.50, 0.51, 0.52]))
    assert "corrected for all 3 pairs: more than" in found[-2] and found[-2].endswith("and so for the others")
    found = lines(tmp_path / "one", (0.8, [0.74, 0.75, 0.76]), (0.7, clear), (0.6, wide))
    assert found[-2].startswith("trial 2 is behind by 0.047 (-0.") and "within the noise" in found[-2]
    found = lines(tmp_path / "ahead", (0.8, [0.70, 0.71, 0.72]), (0.7, [0.73, 0.742, 0.75, None]))
    assert found[-2].startswith("trial 1 is ahead by 0.031 (0.0") and "more than" in found[-2]


def test_the_command_prints_a_table_or_json_and_best_has_the_means(once: tuple[Home, Path, dict[str, Any]]) -> None:
    place, file, _ = once
    words = ["retrain", "--study", str(file), "--seeds", "2", "--top", "2"]
    table, as_json, best, one = place.call_each([words, [*words, "--json"], ["best"], [*words, "--seeds", "1"]])
    rows = json.loads(as_json.stdout)
    assert rows == Studies(place.storage).load("small").user_attrs["retrained"]
    first = rows[0]
    mean = f"{first['macro_f1_mean']:.3f} ± {first['macro_f1_std']:.3f}"
    assert mean in table.stdout.splitlines()[1]
    assert table.stdout.splitlines()[-1].startswith(f"test split: trial {first['trial']}, macro-F1 ")
    assert "over 2 seeds: macro-F1" in best.stdout and mean in best.stdout
    assert one.returncode == 2 and "'--seeds': Input should be greater than or equal to 2" in one.stderr

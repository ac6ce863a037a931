"""A sweep from its file to its result: every study of the package, resuming, how trials end, what is stored."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
import sqlalchemy
import torch
import yaml
from optuna.trial import TrialState, create_trial
from safetensors.torch import load_file, save_file

import peftsweep
from peftsweep import comparison
from peftsweep.config import available, load
from peftsweep.engine import Command, Event, Limits, Pack, Progressed, StartTrials
from peftsweep.engine.capacity import FILL
from peftsweep.errors import ForeignStudyError, ModelError, StorageError, StudyFileError, StudyMismatchError, UsageError
from peftsweep.models import BaseInfo
from peftsweep.progress import PlainProgress, Silent
from peftsweep.storage import Studies
from peftsweep.study import results
from peftsweep.sweep.run_study import run_together
from peftsweep.sweep.trial_supply import TrialSupply
from peftsweep.task import Task
from peftsweep.workers import worker
from peftsweep.workers.worker import LocalWorker, PackInfo, WorkerSpec
from tests.numbers import distance, hold, norm
from tests.pools import TurnsPool
from tests.studies import GRID, LABELS, ROOT, Home, home, mount, never_stopped, struck, until
from tests.tiny import EMOTIONS, SENTIMENTS, tiny_model, tiny_rows, write

GIB = 2**30
ARCHITECTURES = {"gemma3": "gemma3", "gemma": "gemma", "llama": "llama", "smollm2": "llama", "mistral": "mistral"}


@pytest.fixture
def here(tmp_path: Path) -> Home:
    return home(tmp_path / "home")


def architecture(study: str) -> str:
    return next((kind for name, kind in ARCHITECTURES.items() if name in study), "bert")


def files_of(folder: Path, study: str) -> dict[str, str]:
    """Overrides that name small files with the columns of the study's own data."""
    if study == "demo":
        rows = [row | {"confidence": 1.0} for row in tiny_rows(SENTIMENTS, 1600, 1, single="sentiment")]
        return {"data.source": str(write(folder / "all.csv", rows))}
    for name, n, seed in (("train.tsv", 40, 1), ("dev.tsv", 33, 2)):
        write(folder / name, [{"Tweet": row.pop("text")} | row for row in tiny_rows(EMOTIONS, n, seed)])
    return {"data.train": str(folder / "train.tsv"), "data.validation": str(folder / "dev.tsv")}


@pytest.mark.parametrize("name", available())
def test_every_study_of_the_package_runs_to_its_end(tmp_path: Path, name: str) -> None:
    base = tiny_model(tmp_path / "base", architecture(name))
    config = load(name, {"model.id": str(base)} | files_of(tmp_path, name))
    place = Home(tmp_path)
    result = place.run(config, trials=3, slots=2)
    assert sum(result.counts.values()) == 3 and result.counts["complete"] >= 1
    assert result.best is not None and result.best.macro_f1 == result.study.best_value
    (row,) = peftsweep.best(place.storage)
    assert (row.study, row.method, row.model) == (name, config.method, str(base))
    assert row.adapter is not None and (Path(row.adapter) / "adapter_config.json").is_file()
    statuses = Counter(run.info.status for run in place.runs())
    assert statuses == Counter(FINISHED=1 + result.counts["complete"], KILLED=result.counts.get("pruned", 0))


# Resumption ---------------------------------------------------------------------------------------------------------

LONG = {"epochs": 30, "evals_per_epoch": 1, "batch_size": 4}


def killed_at(place: Home, moment: str, study: Path, *words: str, slots: int = 1) -> None:
    done = struck(place, moment, [signal.SIGKILL], "run", "--study", str(study), "--slots", str(slots), *words)
    assert done.returncode == -signal.SIGKILL, done.stderr


def killed_and_resumed(place: Home, study: Path, slots: int, trial: int) -> None:
    """Kill the real program in the middle of that trial, then resume the sweep."""
    words = ("run", "--study", str(study), "--slots", str(slots))
    process = place.start(*words)
    until(lambda: len(place.checkpoints(trial)) > 0 and int(place.checkpoints(trial)[-1].name[-2:]) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = optuna.load_study(study_name="small", storage=place.storage)
    assert before.trials[trial].state == TrialState.RUNNING
    place.run(study, slots=slots)


def test_a_killed_sweep_resumes_and_ends_with_the_same_adapters_byte_for_byte(tmp_path: Path) -> None:
    never, killed = home(tmp_path / "never"), home(tmp_path / "killed")
    changes = {"train": LONG | {"epochs": 10}, "search": {"trials": 2}, "model": {"id": str(never.folder / "base")}}
    never.run(never.study(**changes), slots=1)
    killed_and_resumed(killed, killed.study(**changes), slots=1, trial=1)
    for trial in (0, 1):
        assert killed.adapter(trial).read_bytes() == never.adapter(trial).read_bytes()
    study = optuna.load_study(study_name="small", storage=killed.storage)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    (pause,), resumed = study.trials[1].user_attrs["pauses"], study.trials[1]
    assert resumed.datetime_start is not None and resumed.datetime_complete is not None
    began, ended = (1000 * at.timestamp() for at in (resumed.datetime_start, resumed.datetime_complete))
    third = resumed.user_attrs["evaluations"][2]["at"]
    assert began < third <= pause[0] < pause[1] < ended and "pauses" not in study.trials[0].user_attrs
    # one parent and two children: the killed process's runs were resumed, and none is left running
    assert [run.info.status for run in killed.runs()] == ["FINISHED"] * 3


@pytest.mark.numbers
def test_a_killed_pack_resumes_and_ends_with_the_same_adapters(tmp_path: Path) -> None:
    never, killed = home(tmp_path / "never"), home(tmp_path / "killed")
    changes = {"train": LONG | {"epochs": 9}, "search": {"trials": 3}, "model": {"id": str(never.folder / "base")}}
    never.run(never.study(**changes), slots=3)
    killed_and_resumed(killed, killed.study(**changes), slots=3, trial=1)
    for trial in range(3):
        ours, theirs = load_file(killed.adapter(trial)), load_file(never.adapter(trial))
        moved = norm(value for key, value in theirs.items() if "lora_B" in key)  # they start at zero
        hold("weights", distance(ours, theirs) / moved, torch.float32)


@pytest.fixture(scope="module")
def never(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A sweep that was never stopped."""
    return never_stopped(tmp_path_factory.mktemp("never"))


def test_the_umask_decides_who_can_read_the_files_of_a_sweep(never: Home) -> None:
    umask = os.umask(0)
    os.umask(umask)
    files = [file for file in (never.folder / "artifacts").rglob("*") if file.is_file()]
    assert {"adapter_model.safetensors", "predictions.safetensors", "validation.safetensors"} < {f.name for f in files}
    assert {file: oct(file.stat().st_mode & 0o777) for file in files} == dict.fromkeys(files, oct(0o666 & ~umask))


MOMENTS = {
    "between asking and the first step": "optuna:Study.ask 2",
    "before a checkpoint is written": "peftsweep.engine.checkpoint:write 3",
    "while a checkpoint is written": "peftsweep.engine.checkpoint:_fsync 3",
    "after an evaluation, before it is stored": "peftsweep.sweep.study_judge:StudyJudge.report 6",
    "after the last step, before the adapter": "peftsweep.sweep.study_judge:StudyJudge.finish 1",
    "after the adapter was renamed, before tell": "peftsweep.study.artifacts:write 1",
    "after tell": "peftsweep.storage:StoredStudy.end 1",
    "in the middle of a group of rows": "peftsweep.storage.pending_rows:update_trials 9",
    "after a group of rows, before anybody was told": "peftsweep.storage.leased_storage:LeasedStorage.flush 9",
    "after a result was stored, before checkpoints were removed": "peftsweep.sweep.projection:Projection.end 1",
    "when MLflow has half of the artifacts": "peftsweep.tracking.mlflow_runs:MlflowRuns._upload 2",
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
def test_a_sweep_killed_at_any_moment_ends_like_one_that_was_never_killed(
    never: Home, tmp_path: Path, moment: str
) -> None:
    here = home(tmp_path / "home", mlflow=False)
    study = here.study(**GRID, model={"id": str(never.folder / "base")})
    killed_at(here, moment, study)
    ours = here.run(study, slots=1).study.trials
    theirs = optuna.load_study(study_name="small", storage=never.storage).trials
    assert [(t.state, t.params, t.values) for t in ours] == [(t.state, t.params, t.values) for t in theirs]
    for trial in (0, 1):
        assert here.adapter(trial).read_bytes() == never.adapter(trial).read_bytes()
        assert evaluations_and_artifacts(here, trial) == ([3, 6, 9, 12], ARTIFACTS)
    assert [run.info.status for run in here.runs()] == ["FINISHED"] * 3


def test_mlflow_gets_what_a_killed_process_had_not_written_yet(
    here: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, temporary, waiting = here.study(**GRID), tmp_path / "tmp", here.folder / "artifacts" / "small" / ".mlflow"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    killed_at(here, "peftsweep.sweep.study_judge:StudyJudge.report 6", study, "--tracking-uri", "http://127.0.0.1:9")
    assert list(temporary.rglob("*.safetensors")) == []
    (copy,) = waiting.rglob("adapter_model.safetensors")
    assert copy.samefile(here.adapter(0))  # a hard link, which takes no space
    assert here.run(study, slots=1).counts == {"complete": 2}
    assert not waiting.exists()
    for trial in (0, 1):
        assert evaluations_and_artifacts(here, trial) == ([3, 6, 9, 12], ARTIFACTS)
    (first,) = [run for run in here.runs() if run.data.tags.get("peftsweep.trial") == "0"]
    assert {"learning_rate", "rank", "seed", "model", "rows_train"} <= first.data.params.keys()


ARTIFACTS = {"adapter", "confusion_matrix.png", "per_class.json", "predictions.safetensors", "study.yaml"}


def evaluations_and_artifacts(place: Home, trial: int) -> tuple[list[int], set[str]]:
    """What MLflow has of a trial: the steps of its curve, and the names of its files."""
    client = mlflow.MlflowClient(tracking_uri=place.tracking_uri)
    (run,) = [run for run in place.runs() if run.data.tags.get("peftsweep.trial") == str(trial)]
    assert client.list_artifacts(run.info.run_id, "adapter")
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "macro_f1")]
    return steps, {file.path for file in client.list_artifacts(run.info.run_id)}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_sweep_after_the_step_keeps_everything_and_says_how_to_resume(
    here: Home, number: int, status: int
) -> None:
    study = here.study(train=LONG | {"epochs": 15}, search={"trials": 3})
    process = here.start("run", "--study", str(study), "--slots", "2")
    until(lambda: here.checkpoints(0), process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert err.splitlines()[-1] == (f"stopped; everything is kept. To resume: peftsweep run --study {study} --slots 2")
    assert "Traceback" not in err
    assert not [run for run in here.runs() if run.info.status == "RUNNING"]
    ends = {run.info.run_name: run.info.end_time for run in here.runs()}
    assert max(ends.values()) == ends["small"]  # no trial ends after its study
    (shown,) = peftsweep.status(here.storage)
    assert (shown["running"], shown["stopped"]) == (0, 2) and shown["seconds"] > 0 and here.checkpoints(0)
    assert "small: 2 stopped" in err
    result = here.run(study, slots=3)
    assert result.counts == {"complete": 3}
    assert {run.info.status for run in here.runs()} == {"FINISHED"} and len(here.runs()) == 4


def test_a_signal_before_the_first_step_stops_the_sweep_at_once_with_one_line(here: Home) -> None:
    words = ("run", "--study", str(here.study()))
    done = struck(here, "peftsweep.sweep.run_study:load_tokenizer 1", [signal.SIGTERM], *words)
    assert done.returncode == 143
    *stages, line = done.stderr.splitlines()
    assert line.startswith("stopped; everything is kept") and len(stages) == 3


def test_a_signal_while_libraries_are_imported_stops_the_command_with_the_same_line(here: Home) -> None:
    process = here.start("run", "--study", str(here.study()), fresh=True)
    until(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text(), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    *stages, line = err.splitlines()
    assert line.startswith("stopped; everything is kept") and len(stages) == 2


def test_a_signal_during_the_last_report_to_mlflow_waits_for_that_report(here: Home) -> None:
    words = ("run", "--study", str(here.study()), "--trials", "1")
    done = struck(here, "peftsweep.sweep.projection:Projection._study_outcome 1", [signal.SIGTERM], *words)
    assert done.returncode == 143, done.stderr
    assert [run.info.status for run in here.runs()] == ["FINISHED"] * 2


def test_a_second_signal_stops_the_sweep_without_waiting_and_gives_the_exit_status(here: Home) -> None:
    words = ("run", "--study", str(here.study()))
    done = struck(here, "peftsweep.engine.pack:Pack.step 2", [signal.SIGTERM, signal.SIGTERM], *words)
    assert done.returncode == 143 and "Traceback" not in done.stderr
    assert not [saved for saved in here.checkpoints(0) if "-000002-" in saved.name]  # it did not wait for it
    assert not [run for run in here.runs() if run.info.status == "RUNNING"]


def test_a_hangup_under_nohup_stops_nothing(here: Home) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does; a child process inherits it
    try:
        process = here.start("run", "--study", str(here.study()), "--trials", "1")
    finally:
        signal.signal(signal.SIGHUP, before)
    until(lambda: here.checkpoints(0), process)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "stopped" not in err


def test_a_finished_study_trains_nothing_again_and_continues_with_a_larger_total(here: Home) -> None:
    study = here.study()
    first = here.run(study)
    stamps = [trial.datetime_complete for trial in first.study.trials]
    assert here.run(study).seconds == {}  # no pack was created
    more = here.run(study, trials=4)
    assert [trial.datetime_complete for trial in more.study.trials][:3] == stamps
    assert more.counts == {"complete": 4} and len(here.runs()) == 5


def test_a_trial_whose_process_died_while_asking_gets_its_missing_parameters(here: Home) -> None:
    study = here.study()
    result = here.run(study, trials=1)
    for _ in range(2):
        result.study.ask()  # created, nothing sampled yet
    before: list[list[str]] = []  # the parameters of both, before any trial can end

    class Watched(LocalWorker):
        def load(self) -> BaseInfo:
            before.extend(sorted(trial.params) for trial in optuna.load_study(**stored).trials[1:])
            return super().load()

    stored = {"study_name": "small", "storage": here.storage}
    again = here.run(study, trials=3, slots=1, start=Watched)
    assert again.counts == {"complete": 3}
    assert before == [["learning_rate", "rank"]] * 2
    supply = TrialSupply(load(study), again.study, Studies(here.storage), total=3)
    with pytest.raises(StorageError, match=r"^study 'small': trial 7 cannot be read: it is not there$"):
        supply.trial(7)


# What did not come from the sweep -----------------------------------------------------------------------------------


def test_foreign_trials_and_studies_do_not_affect_a_sweep(here: Home, tmp_path: Path) -> None:
    never = home(tmp_path / "never")
    same = {"model": {"id": str(never.folder / "base")}, "search": {"sampler": "tpe"}}
    alone = never.run(never.study(**same), slots=1)
    here.run(here.study(**same), trials=1, slots=1)
    stranger = optuna.create_study(study_name="plain", storage=here.storage)
    stranger.add_trial(create_trial(value=0.99))
    own = optuna.load_study(study_name="small", storage=here.storage)
    own.add_trial(create_trial(value=1.0, intermediate_values={1: 1.0}))
    said = io.StringIO()
    result = here.run(here.study(**same), trials=3, slots=1, progress=PlainProgress(said))
    assert result.counts == {"complete": 3} and result.best is not None and result.best.macro_f1 < 1
    assert said.getvalue().count("trial 1 did not come") == 1
    first, *_ = (trial.params for trial in result.study.trials)
    assert first == alone.study.trials[0].params and len(result.study.trials) == 3
    assert here.run(here.study(**same), trials=3).seconds == {}
    with pytest.raises(
        ForeignStudyError, match=r"study 'plain' .* was not made by peftsweep; save the study file under"
    ):
        here.run(here.study("plain"))
    assert len(stranger.trials) == 1 and stranger.user_attrs == {}


def test_a_copied_study_writes_to_no_run_and_no_folder_of_the_original(here: Home) -> None:
    write(here.folder / "test.csv", tiny_rows(LABELS, 24, 3, single="label"))
    data = {"test": str(here.folder / "test.csv")}
    here.run(here.study(data=data), trials=2)
    optuna.copy_study(from_study_name="small", from_storage=here.storage, to_storage=here.storage, to_study_name="copy")
    first = [run.info.run_id for run in here.runs()]
    before = [(run.info.end_time, run.data.metrics) for run in here.runs()]
    files = {file: file.stat().st_mtime_ns for file in (here.folder / "artifacts" / "small").rglob("*")}
    result = here.run(here.study("copy", data=data), trials=3)
    assert result.counts == {"complete": 3}
    assert [(run.info.end_time, run.data.metrics) for run in here.runs() if run.info.run_id in first] == before
    assert {file: file.stat().st_mtime_ns for file in (here.folder / "artifacts" / "small").rglob("*")} == files
    others = [run for run in here.runs() if run.info.run_id not in first]
    assert sorted(run.info.run_name for run in others) == ["copy", "trial-0000", "trial-0001", "trial-0002"]
    assert {file.parent.name for file in (here.folder / "artifacts" / "copy").glob("*/adapter")} == {"trial-0002"}


# Another study of the same name -------------------------------------------------------------------------------------


def test_another_space_under_the_same_name_is_refused_with_what_differs(here: Home) -> None:
    here.run(here.study(), trials=1)
    with pytest.raises(StudyMismatchError, match=r"space\.rank") as error:
        here.run(here.study(space={"learning_rate": {"low": 1e-3, "high": 2e-2, "log": True}, "rank": [2, 8]}))
    assert "epochs" not in str(error.value) and "another name" in str(error.value)
    with pytest.raises(StudyMismatchError, match=r"train\.epochs"):
        here.run(here.study(train={"epochs": 3}))


def test_a_study_that_was_refused_may_be_corrected(here: Home) -> None:
    with pytest.raises(ModelError, match="rank: 128"):
        here.run(here.study(space={"rank": [4, 128]}))
    assert here.run(here.study(space={"rank": [4, 8]}), trials=1).counts == {"complete": 1}


def test_another_objective_under_the_same_name_is_refused(here: Home) -> None:
    changes = multi_label(here)
    here.run(here.study(**changes), trials=1)
    with pytest.raises(StudyMismatchError, match=r"search\.objective: macro_f1 in the storage, macro_f1_tuned now"):
        here.run(here.study(**changes, search={"objective": "macro_f1_tuned"}), trials=2)


def test_trials_are_compared_by_the_objective_and_their_best_evaluation_is_chosen_by_it(here: Home) -> None:
    study = here.study(**multi_label(here), train={"epochs": 6}, search={"objective": "macro_f1_tuned", "trials": 3})
    result = here.run(study)
    assert result.best is not None and result.best.objective == "macro_f1_tuned"
    for trial in result.study.trials:
        scores = [evaluation["scores"] for evaluation in trial.user_attrs["evaluations"]]
        best = max(scores, key=lambda found: found["macro_f1_tuned"])
        assert trial.value == best["macro_f1_tuned"] == trial.user_attrs["scores"]["macro_f1_tuned"]
        assert list(trial.intermediate_values.values()) == [found["macro_f1_tuned"] for found in scores]
    tuned = [found["macro_f1_tuned"] for found in scores]
    assert tuned != [found["macro_f1"] for found in scores]
    kept = load_file(here.folder / "artifacts" / "small" / f"trial-{trial.number:04d}" / "predictions.safetensors")
    task = Task("multi-label", tuple(LABELS))
    logits, labels = kept["logits"].numpy(), kept["labels"].numpy()
    assert task.scores(logits, labels) == pytest.approx(trial.user_attrs["scores"])


def test_the_command_calls_tuned_scores_tuned_in_every_line(here: Home) -> None:
    changes = multi_label(here)
    write(here.folder / "test.csv", tiny_rows(LABELS, 24, 3))
    changes["data"]["test"] = str(here.folder / "test.csv")
    study = here.study(**changes, search={"objective": "macro_f1_tuned", "trials": 2})
    done = here.call("run", "--study", str(study))
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stderr.splitlines() if "macro-F1" in line]
    assert any(re.match(r"\d\d:\d\d:\d\d trial 0 complete · tuned macro-F1 ", line) for line in shown)
    assert any(re.match(r"test split: trial \d, tuned macro-F1 0\.\d+$", line) for line in shown)
    assert any(line.startswith("small: 2 complete · best tuned macro-F1 ") for line in shown)
    assert all("tuned macro-F1" in line for line in shown)
    status = here.call("status").stdout.splitlines()[0]
    assert status.split()[-3:] == ["tuned", "macro-F1", "time"]


def test_a_study_of_an_earlier_version_gets_its_validation_rows_fingerprint_when_it_resumes(here: Home) -> None:
    first = here.run(here.study(), trials=1).study.user_attrs["validation_fingerprint"]
    with contextlib.closing(sqlite3.connect(here.folder / "studies.db")) as database:
        gone = "delete from study_user_attributes where key = 'validation_fingerprint'"
        assert database.execute(gone).rowcount == 1
        database.commit()
    assert here.run(here.study(), trials=2).study.user_attrs["validation_fingerprint"] == first


def test_rows_with_the_same_labels_in_another_form_belong_to_the_same_study(here: Home) -> None:
    """First each label has a column of zeros and ones, then one column has all labels. The task is multi-label."""
    here.run(here.study(**multi_label(here), train={"epochs": 1}), trials=1)
    forms: list[tuple[str, Any, Any]] = [
        (".csv", ";".join, {"column": "all", "separator": ";"}),
        (".csv", str, {"column": "all"}),
        (".jsonl", list, "all"),
    ]
    for ending, cell, labels in forms:
        changes: dict[str, Any] = {"labels": labels}
        for name, count, seed in (("train", 48, 1), ("validation", 24, 2)):
            rows = tiny_rows(LABELS, count, seed)
            cells = [{"text": row["text"], "all": cell([name for name in LABELS if row[name]])} for row in rows]
            changes[name] = str(write(here.folder / f"{name}{ending}", cells))
        assert here.run(here.study(data=changes, train={"epochs": 1}), trials=1).counts == {"complete": 1}
    (group,) = comparison.compare(here.storage).groups
    assert group.kind == "multi-label"


BEGUN = "4d4ea375f2549c4e"  # the fingerprint that version 0.1 gave the rows below


def test_a_study_that_version_0_1_began_resumes_although_its_rows_would_now_be_split_differently(
    here: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tiny_rows(LABELS, 60, 1, single="label")
    path = write(here.folder / "copies.csv", [*rows, *rows[:20]])
    changes: dict[str, Any] = {"train": {"epochs": 1, "evals_per_epoch": 1}}
    study = here.study(data={"train": str(path), "validation": None, "split": {"validation": 0.25}}, **changes)
    fingerprint = here.run(study, trials=1).study.user_attrs["fingerprint"]
    with contextlib.closing(sqlite3.connect(here.folder / "studies.db")) as database:
        change = "update study_user_attributes set value_json = ? where key = 'fingerprint'"
        assert database.execute(change, [f'"{BEGUN}"']).rowcount == 1
        database.commit()
    shown = PlainProgress(sys.stdout)
    assert here.run(study, trials=1, progress=shown).counts == {"complete": 1} and fingerprint != BEGUN
    peftsweep.retrain(study, seeds=2, top=1, storage=here.storage, tracking_uri=here.tracking_uri, progress=shown)
    assert capsys.readouterr().out.count("an earlier version") == 2


def multi_label(place: Home) -> dict[str, Any]:
    """Settings of a study whose texts have several labels."""
    for name, rows, seed in (("train", 48, 1), ("dev", 24, 2)):
        write(place.folder / f"{name}.csv", tiny_rows(LABELS, rows, seed))
    return {"data": {"labels": LABELS}}


def test_another_base_under_the_same_name_is_refused(here: Home) -> None:
    here.run(here.study(), trials=1)
    weights = here.folder / "base" / "model.safetensors"
    tensors = {name: tensor + 1 for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(StudyMismatchError, match=r"were trained on .* at revision"):
        here.run(here.study(), trials=2)


def test_a_sweep_starts_anew_after_its_database_is_deleted_and_two_databases_do_not_mix(here: Home) -> None:
    first = here.run(here.study(train=LONG | {"epochs": 8}), trials=1, timeout=3600)
    (here.folder / "studies.db").unlink()
    stray = here.folder / "artifacts" / "small" / "trial-0000" / "checkpoint-000001-01"
    stray.mkdir()
    again = here.run(here.study(train=LONG | {"epochs": 8}), trials=1)
    assert first.best is not None and again.best is not None and first.best.macro_f1 == again.best.macro_f1
    other = here.run(here.study(), trials=1, storage=f"sqlite:///{here.folder}/other.db")
    assert other.best is not None and other.best.adapter != again.best.adapter
    assert Path(str(again.best.adapter)).is_dir() and Path(str(other.best.adapter)).is_dir()


def test_two_databases_may_not_share_a_study_s_artifacts(here: Home, tmp_path: Path) -> None:
    """But a moved study continues, and a deleted study makes room."""
    shared = f"?artifacts={here.folder}/artifacts"
    here.run(here.study(), trials=1)
    before = here.adapter(0).read_bytes()
    with pytest.raises(StorageError, match=r"the same name in sqlite:///.*/studies\.db; name another folder"):
        here.run(here.study(), trials=1, storage=f"sqlite:///{here.folder}/other.db{shared}")
    assert here.adapter(0).read_bytes() == before
    (here.folder / "studies.db").rename(tmp_path / "moved.db")
    moved = f"sqlite:///{tmp_path}/moved.db{shared}"
    assert here.run(here.study(), trials=2, storage=moved).counts == {"complete": 2}
    optuna.delete_study(study_name="small", storage=moved.partition("?")[0])
    assert here.run(here.study(), trials=1, storage=moved).counts == {"complete": 1}


HALVES = {"trials": 2, "sampler": "grid", "pruner": {"reduction": 2, "min_evals": 3}}
APART: dict[str, Any] = {
    "search": HALVES,
    "space": {"learning_rate": [1e-8, 3e-3]},  # the first one learns nothing
    "train": {"epochs": 6, "evals_per_epoch": 1, "batch_size": 4},
}


def add_pruned_trials(place: Home, score: float) -> None:
    """Add two trials at the rung while nobody runs the study."""
    stored = optuna.load_study(study_name="small", storage=place.storage)
    for _ in range(2):
        trial = stored.ask()
        trial.report(score, step=3)
        trial.set_user_attr("reason", "pruned")  # only a sweep's own trials have one
        stored.tell(trial, state=TrialState.PRUNED)


def test_a_trial_that_was_kept_is_not_judged_again(here: Home) -> None:
    study = here.study(**APART)
    killed_at(here, "peftsweep.sweep.projection:Projection.evaluated 3", study)  # just after the verdict was stored
    stored = optuna.load_study(study_name="small", storage=here.storage)
    assert stored.trials[0].user_attrs["kept"] == 3
    add_pruned_trials(here, 1.0)
    assert here.run(study, trials=3).study.trials[0].state == TrialState.COMPLETE


def test_a_trial_that_was_not_judged_yet_is_compared_with_those_that_came_meanwhile(here: Home) -> None:
    study = here.study(**APART)
    killed_at(here, "optuna.trial:Trial.report 3", study)
    add_pruned_trials(here, 1.0)
    assert here.run(study, trials=3).study.trials[0].state == TrialState.PRUNED


def test_a_trial_that_was_dropped_stays_dropped_when_weaker_ones_come(here: Home) -> None:
    study = here.study(**APART)
    killed_at(here, "peftsweep.sweep.projection:Projection.evaluated 6", study, slots=2)
    weak = [t for t in optuna.load_study(study_name="small", storage=here.storage).trials if "dropped" in t.user_attrs]
    assert [trial.params["learning_rate"] for trial in weak] == [1e-8]
    add_pruned_trials(here, 0.0)
    assert here.run(study, trials=4).study.trials[weak[0].number].state == TrialState.PRUNED


def test_mlflow_is_synced_after_a_kill_that_left_no_work(here: Home) -> None:
    study = here.study()
    result = here.run(study, trials=2)
    client = mlflow.MlflowClient(tracking_uri=here.tracking_uri)
    for run in here.runs():  # what a process killed before its writer was done leaves behind
        client.update_run(run.info.run_id, status="RUNNING")
    result.study.set_user_attr("mlflow_level", False)
    assert here.run(study, trials=2).seconds == {}
    assert {run.info.status for run in here.runs()} == {"FINISHED"} and len(here.runs()) == 3


def test_an_enqueued_trial_is_run_and_one_outside_the_space_fails_alone(here: Home) -> None:
    result = here.run(here.study(), trials=1)
    result.study.enqueue_trial({"learning_rate": 0.005, "rank": 4})
    result.study.enqueue_trial({"rank": 3})
    said = io.StringIO()
    again = here.run(here.study(), trials=3, slots=1, progress=PlainProgress(said))
    assert again.counts == {
        "complete": 3,
        "failed": 1,
    }  # a trial that was never trained does not count towards the total
    assert again.study.trials[1].params == {"learning_rate": 0.005, "rank": 4}
    reason = "rank: expected one of 2, 4, got 3"
    assert again.study.trials[2].user_attrs["reason"] == reason and said.getvalue().count(reason) == 1
    (run,) = [run for run in here.runs() if run.data.tags.get("peftsweep.trial") == "2"]
    assert (run.info.status, run.data.tags["peftsweep.reason"]) == ("FAILED", reason)
    assert here.run(here.study(), trials=3).seconds == {}
    assert results.done(again.study.records()) == 3


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_study_samples_the_same_in_two_runs_as_in_one(tmp_path: Path, sampler: str) -> None:
    rates = []
    for name, totals in (("once", [4]), ("twice", [2, 4])):
        place = home(tmp_path / name)
        for total in totals:
            result = place.run(place.study(search={"sampler": sampler}), trials=total, slots=1)
        rates.append([trial.params["learning_rate"] for trial in result.study.trials])
    assert rates[0] == rates[1] and len(set(rates[0])) == 4


def test_a_study_continues_with_a_wider_range(here: Home) -> None:
    here.run(here.study(space={"rank": {"low": 2, "high": 4, "log2": True}}), trials=1)
    result = here.run(here.study(space={"rank": {"low": 2, "high": 16, "log2": True}}), trials=3)
    assert result.counts == {"complete": 3}


def test_other_rows_under_the_same_name_are_refused_and_a_moved_file_is_not(here: Home) -> None:
    here.run(here.study(), trials=1)
    moved = (here.folder / "train.csv").rename(here.folder / "moved.csv")
    again = here.study(data={"train": str(moved), "encoding": "latin-1", "quoting": True})  # the rows are the same
    assert here.run(again, trials=2).counts == {"complete": 2}
    write(moved, tiny_rows(LABELS, 48, 7, single="label"))
    with pytest.raises(StudyMismatchError, match="fingerprint"):
        here.run(here.study(data={"train": str(moved)}), trials=3)


# How trials end -----------------------------------------------------------------------------------------------------


def test_a_trial_that_diverges_fails_alone_and_never_wins(here: Home) -> None:
    study = here.study(space={"learning_rate": [1e-2, 1e30]}, search={"sampler": "grid", "trials": 9})
    result = here.run(study, slots=2)
    assert result.counts == {"complete": 1, "failed": 1}  # the grid has only two points
    assert [run.info.status for run in here.runs() if run.info.run_name == "small"] == ["FINISHED"]
    (failed,) = [trial for trial in result.study.trials if trial.state == TrialState.FAIL]
    assert "at step" in failed.user_attrs["reason"] and result.best is not None
    assert result.best.trial != failed.number
    (run,) = [run for run in here.runs() if run.info.status == "FAILED"]
    assert run.data.tags["peftsweep.reason"] == failed.user_attrs["reason"]


def test_weak_trials_are_pruned_at_a_rung_with_a_reason(here: Home) -> None:
    search = {"trials": 9, "pruner": {"reduction": 3, "min_evals": 2}}
    space = {"learning_rate": {"low": 1e-4, "high": 3e-2, "log": True}, "rank": [4, 16]}
    result = here.run(here.study(search=search, space=space, train={"epochs": 10, "evals_per_epoch": 1}), slots=3)
    assert result.counts["pruned"] >= 2 and result.counts["complete"] >= 1
    pruned = [trial for trial in result.study.trials if trial.state == TrialState.PRUNED]
    assert all(trial.user_attrs["reason"].startswith("pruned at step") for trial in pruned)
    assert result.best is not None and result.best.macro_f1 >= max(trial.intermediate_values[2] for trial in pruned)
    reasons = [run.data.tags.get("peftsweep.reason", "") for run in here.runs()]
    assert sum(reason.startswith("pruned at step") for reason in reasons) == len(pruned)


def test_more_trials_than_a_study_may_have_are_refused_before_anything_is_stored(here: Home) -> None:
    with pytest.raises(UsageError, match="trials: expected a whole number of at most 1,000,000, got 10000000"):
        here.run(here.study(), trials=10_000_000)
    with pytest.raises(StudyFileError, match=r"search\.trials: .*1000000"):
        here.run(here.study(search={"trials": 10_000_000}))
    assert not (here.folder / "studies.db").exists()


def test_a_sweep_whose_output_cannot_be_written_runs_to_its_end(here: Home) -> None:
    words = here.command("run", "--study", str(here.study()), "--trials", "1")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(["sh", "-c", 'exec "$@" >&- 2>/dev/full', "sh", *words], cwd=here.folder, env=env, check=False)
    (trial,) = optuna.load_study(study_name="small", storage=here.storage).trials
    assert trial.state == TrialState.COMPLETE


def test_no_trial_starts_after_the_timeout_and_the_end_says_how_many_are_left(here: Home) -> None:
    done = here.call("run", "--study", str(here.study()), "--timeout", "0s")
    assert done.returncode == 0
    assert (
        "the time limit of 0s (--timeout) is over: 3 trials are left; to go on, give the same command again"
        in done.stderr
    )
    (row,) = peftsweep.status(here.storage)
    assert row["complete"] == 0 and "--timeout" in row["reason"]


def test_trials_that_run_at_the_timeout_finish(here: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic

    class Late(LocalWorker):
        def advance(self, commands: Iterable[Command]) -> list[Event]:
            if any(isinstance(command, StartTrials) for command in commands):  # an hour passes as they start
                monkeypatch.setattr(time, "monotonic", lambda: now() + 3600)
            return super().advance(commands)

    study = here.study(search={"trials": 9})
    assert here.run(study, timeout=3600, slots=2, start=Late).counts == {"complete": 2}


def test_only_the_best_adapters_stay_and_no_checkpoint(here: Home) -> None:
    result = here.run(here.study(search={"trials": 5, "keep_adapters": 2}))
    ranked = sorted(result.study.trials, key=lambda trial: (-trial.values[0], trial.number))
    kept = [trial.number for trial in result.study.trials if here.adapter(trial.number).is_file()]
    assert kept == sorted(trial.number for trial in ranked[:2])
    assert not list((here.folder / "artifacts").rglob("*checkpoint*"))


def test_adapters_that_are_not_there_take_no_place_among_the_kept(here: Home) -> None:
    study = here.study(search={"trials": 6, "keep_adapters": 1})
    result = here.run(study, slots=1, trials=4)
    assert result.best is not None
    shutil.rmtree(here.adapter(result.best.trial).parent)  # of the three others, none was kept
    here.run(study, slots=1, overrides=["search.keep_adapters=2"])
    assert all(here.adapter(number).is_file() for number in (4, 5))


def test_only_a_trial_among_the_best_when_it_completes_gets_an_adapter_and_a_confusion_matrix(here: Home) -> None:
    study = here.study(search={"trials": 6, "keep_adapters": 1})
    result, best, there = here.run(study, slots=1), 0.0, []
    for trial in result.study.trials:  # with one slot, they complete in the order of their numbers
        there += [trial.number] * (trial.values[0] > best)
        best = max(best, trial.values[0])
    folders = {trial.number: here.adapter(trial.number).parents[1] for trial in result.study.trials}
    assert [number for number, folder in folders.items() if (folder / "confusion_matrix.png").is_file()] == there
    assert all((folder / "per_class.json").is_file() for folder in folders.values()) and len(there) < 6
    recorded = [number for number in folders if result.study.trials[number].user_attrs["adapter"]]
    assert recorded == there


def test_the_test_split_is_scored_once_for_the_best_trial_alone(here: Home) -> None:
    test = write(here.folder / "test.csv", tiny_rows(LABELS, 24, 3, single="label"))
    study = here.study(data={"test": str(test)})
    first = here.run(study, trials=2)
    scored = first.study.user_attrs["test"]
    assert first.best is not None and scored["trial"] == first.best.trial
    assert first.best.test == scored["scores"] and 0 <= scored["scores"]["macro_f1"] <= 1
    (parent,) = [run for run in here.runs() if "mlflow.parentRunId" not in run.data.tags]
    assert parent.data.metrics["test_macro_f1"] == pytest.approx(scored["scores"]["macro_f1"])
    children = [run for run in here.runs() if "mlflow.parentRunId" in run.data.tags]
    assert len(children) == 2 and not any("test_macro_f1" in run.data.metrics for run in children)
    assert here.run(study, trials=2).seconds == {}  # not a second time


def test_a_study_is_complete_when_its_total_is_lowered_to_its_finished_trials(here: Home) -> None:
    study = here.study()
    here.run(study, trials=2)
    here.run(study, trials=9, timeout=0.0)
    (parent,) = [run for run in here.runs() if "mlflow.parentRunId" not in run.data.tags]
    assert parent.data.tags["peftsweep.state"] == "interrupted"
    result = here.run(study, trials=2)
    assert result.seconds == {} and result.study.user_attrs["total"] == 2
    (parent,) = [run for run in here.runs() if "mlflow.parentRunId" not in run.data.tags]
    assert parent.data.tags["peftsweep.state"] == "complete"


def test_the_test_split_is_not_scored_again_when_more_trials_change_the_best(here: Home) -> None:
    test = write(here.folder / "test.csv", tiny_rows(LABELS, 24, 3, single="label"))
    study = here.study(data={"test": str(test)}, train={"epochs": 4, "batch_size": 4})
    first, total = here.run(study, trials=1).best, 4
    best = here.run(study, trials=total).best
    while best is not None and best.trial == 0:
        total += 4
        best = here.run(study, trials=total).best
    assert first is not None and best is not None and first.test is not None
    assert (best.tested, best.test) == (0, first.test)
    assert here.run(study, trials=total).seconds == {}


def test_a_trial_keeps_its_seed_and_hyperparameters(here: Home) -> None:
    result = here.run(here.study(train={"seed": 7}), trials=2)
    seeds = [trial.user_attrs["seed"] for trial in result.study.trials]
    from peftsweep.study import trial_seed

    assert seeds == [trial_seed(7, 0), trial_seed(7, 1)] and seeds[0] != seeds[1]
    params = result.study.trials[0].user_attrs["params"]
    assert params["alpha"] == 2 * params["rank"] and params["epochs"] == 2


# What MLflow has ----------------------------------------------------------------------------------------------------


def test_a_trial_s_run_has_its_parameters_curves_and_files(here: Home) -> None:
    result = here.run(here.study(), trials=1)
    (child,) = [run for run in here.runs() if "mlflow.parentRunId" in run.data.tags]
    (parent,) = [run for run in here.runs() if "mlflow.parentRunId" not in run.data.tags]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    wanted = {
        "learning_rate",
        "rank",
        "alpha",
        "dropout",
        "weight_decay",
        "scheduler",
        "batch_size",
        "epochs",
        "method",
    }
    wanted |= {"model", "model_revision", "data_fingerprint", "rows_train", "rows_validation", "device", "seed"}
    assert wanted | {"version_torch", "version_peft", "version_peftsweep"} <= child.data.params.keys()
    curves = {"train_loss", "validation_loss", "macro_f1", "micro_f1", "accuracy", "jaccard", "learning_rate"}
    assert curves | {"best_macro_f1"} <= child.data.metrics.keys()
    client = mlflow.MlflowClient(tracking_uri=here.tracking_uri)
    history = client.get_metric_history(child.info.run_id, "macro_f1")
    assert [point.step for point in history] == [3, 6, 9, 12]
    assert max(point.value for point in history) == pytest.approx(result.study.best_value)
    there = {file.path for file in client.list_artifacts(child.info.run_id)}
    assert there == ARTIFACTS
    assert "adapter/adapter_model.safetensors" in {f.path for f in client.list_artifacts(child.info.run_id, "adapter")}


def test_studies_of_the_same_rows_share_an_experiment_and_no_others_do(here: Home) -> None:
    here.run(here.study(), trials=1)
    copy = write(here.folder / "copy.csv", tiny_rows(LABELS, 48, 1, single="label"))
    here.run(here.study("second", data={"train": str(copy)}), trials=1)
    write(here.folder / "train.csv", tiny_rows(LABELS, 40, 1, single="label"))
    other = here.run(here.study("third"), trials=1)
    parents = {run.info.run_name: run.info.experiment_id for run in here.runs() if run.info.run_name in NAMES}
    assert parents["small"] == parents["second"] != parents["third"]
    fingerprint = other.study.user_attrs["fingerprint"]
    assert other.study.user_attrs["experiment"] == f"home/train · single-label · {fingerprint[:6]}"


NAMES = ("small", "second", "third")


def test_a_dead_tracking_server_loses_only_its_runs(here: Home) -> None:
    result = here.run(here.study(), trials=1, tracking_uri="http://127.0.0.1:9")
    assert result.counts == {"complete": 1} and result.best is not None and result.best.mlflow_run_id is None


# What only a GPU's sweep does ---------------------------------------------------------------------------------------


def test_the_planned_and_the_peak_memory_of_a_gpu_are_reported_and_recorded(
    here: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU of 8 GiB whose counters always say 3 GiB. Its free memory fits two slots, and almost a third."""
    events: list[object] = []
    limits: list[Limits] = []

    def counted(device: object) -> int:
        events.append("measured")
        return 3 * GIB

    class OnGpu(LocalWorker):
        """A worker that takes its device for a GPU, but computes on the CPU."""

        def __init__(self, spec: WorkerSpec) -> None:
            reserve = 8 * GIB - int(FILL * 8 * GIB)
            free = 3 * GIB + int(0.9 * bytes_of_a_slot(spec)) + reserve
            monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 8 * GIB))
            with monkeypatch.context() as patched:
                patched.setattr(torch.cuda, "is_available", lambda: True)
                super().__init__(spec)

        def load(self) -> BaseInfo:
            gpu, self.device = self.device, torch.device("cpu")
            super().load()
            assert self.base is not None
            self.device, self.base = gpu, replace(self.base, device=gpu)
            return self.base.info

        def build(self, trials: int) -> PackInfo:
            built = super().build(trials)
            assert self.worker is not None
            limits.append(self.worker.pack.runner.limits)
            return built

    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: events.append(share))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: events.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", counted)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 5 * GIB)
    printed = io.StringIO()
    result = here.run(here.study(), slots=3, progress=PlainProgress(printed), start=OnGpu)
    assert [line for line in printed.getvalue().splitlines() if line.startswith("memory:")] == [
        "memory: the GPU has room for 2 slots; the other trials wait",
        "memory:  plan 3.0 of 8.0 GiB: 2 slots, 65,536 tokens at once",
        "memory: peak 5.0 of 8.0 GiB, planned 3.0",
    ]
    memory = result.study.user_attrs["memory"]
    assert memory == {"planned_bytes": pytest.approx(3 * GIB, abs=2**20), "peak_bytes": 5 * GIB}
    (run,) = [run for run in here.runs() if "mlflow.parentRunId" not in run.data.tags]
    assert run.data.params["planned_bytes"] == str(memory["planned_bytes"])
    assert run.data.metrics["peak_bytes"] == 5 * GIB
    assert [each.train_tokens for each in limits] == [65_536]
    assert events == [0.92, *3 * ["reset", "measured"], "reset", 1.0]  # planning does not count towards the peak


def bytes_of_a_slot(spec: WorkerSpec) -> int:
    """Bytes of the weights, gradients and moments of one slot of the worker's pack."""
    plain = LocalWorker(spec)
    plain.load()
    plain.build(1)
    assert plain.worker is not None
    stack = plain.worker.pack.stack
    plain.close()
    return sum(matrix[0].nbytes for matrix in (stack.weights, stack.grads, *stack.moments.values()))


def test_blocks_are_compiled_if_the_remaining_trials_may_train_on_enough_tokens(
    here: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs: list[Pack] = []

    class Collecting(LocalWorker):
        def build(self, trials: int) -> PackInfo:
            built = super().build(trials)
            assert self.worker is not None
            packs.append(self.worker.pack)
            return built

    here.run(here.study(), trials=1, start=Collecting)
    whole = 2 * int(packs[0].batcher.corpus.lengths.sum())  # tokens of a trial of 2 epochs
    monkeypatch.setattr(worker, "COMPILE_FROM", 2 * whole)
    here.run(here.study(), trials=3, start=Collecting)  # two more trials
    monkeypatch.setattr(worker, "COMPILE_FROM", 2 * whole - 1)
    monkeypatch.setattr(worker, "COMPILE_LAST_FROM", 2 * whole)
    here.run(here.study(), trials=5, start=Collecting)
    monkeypatch.setattr(worker, "COMPILE_LAST_FROM", 2 * whole - 1)
    here.run(here.study(), trials=7, start=Collecting)
    assert [pack.compiled for pack in packs] == [False, False, True, True]
    assert [pack.compiles_last for pack in packs] == [False, False, False, True]


# What cannot be run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "slots", "sampler", "fewer"),
    [
        (1, 12, "tpe", ["--slots 3,"]),
        (1, 3, "tpe", []),
        (1, 12, "random", []),
        (3, 4, "tpe", ["--slots 1,"]),
        (2, 3, "tpe", []),
        (4, 3, "tpe", ["fewer workers,"]),
    ],
)
def test_a_note_says_that_trials_that_all_start_at_once_learn_nothing_from_each_other(
    here: Home, workers: int, slots: int, sampler: str, fewer: list[str]
) -> None:
    notes: list[str] = []

    class Noted(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    study = here.study(search={"sampler": sampler, "trials": 12}, train={"epochs": 1, "evals_per_epoch": 1})
    places: Any = {"storage": here.storage, "tracking_uri": here.tracking_uri}
    run_together([study], partial(TurnsPool, workers), slots=slots, progress=Noted(), **places)
    said = [note for note in notes if note.startswith("search: all 12 trials start at once")]
    assert len(said) == len(fewer) and all(way in note for way, note in zip(fewer, said, strict=True))


def test_a_free_slot_does_not_read_the_database_before_every_step(here: Home) -> None:
    reads, steps = 0, 0

    def counted(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        nonlocal reads
        reads += "trials.study_id = ? AND trials.trial_id > ?" in statement

    class Watched(LocalWorker):
        def build(self, trials: int) -> PackInfo:
            found = super().build(trials)
            assert self.worker is not None
            self.worker.heartbeat = 0.0  # progress after every step: it must not read either
            return found

        def advance(self, commands: Iterable[Command]) -> list[Event]:
            nonlocal steps
            events = super().advance(commands)
            steps += sum(len(event.steps) for event in events if isinstance(event, Progressed))
            return events

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", counted)
    try:
        here.run(here.study(train={"epochs": 10, "evals_per_epoch": 1}), slots=2, start=Watched)
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", counted)
    # two of the three trials, then one beside a free slot: each of the 2 * 10 evaluations reads
    assert steps == 2 * 10 * 6 and reads < 2 * 10 + 30


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trials": 0}, "trials: expected a whole number of at least 1, got 0"),
        ({"trials": -3}, "got -3"),
        ({"slots": 0}, "slots: expected 'auto' or a whole number of at least 1, got 0"),
        ({"slots": "many"}, "got 'many'"),
        ({"timeout": "2h"}, "timeout: expected seconds, such as 7200, got '2h'"),
        ({"timeout": True}, "timeout: expected seconds, such as 7200, got True"),
        ({"checkpoint_every": -1.0}, "checkpoint_every: expected seconds, such as 7200, got -1.0"),
        ({"worker_timeout": "5m"}, "worker_timeout: expected at least 10 seconds, got '5m'"),
        ({"timeout": -1.0}, "got -1.0"),
        ({"timeout": float("nan")}, "got nan"),
    ],
)
def test_invalid_options_are_refused_in_python_too(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        peftsweep.run("demo", **options)
    assert said in str(error.value)


def test_overrides_of_a_study_built_in_python_are_refused_not_ignored(here: Home) -> None:
    with pytest.raises(UsageError, match="overrides: only a study file can be overridden"):
        peftsweep.run(load(here.study()), overrides={"train.epochs": 1})


def test_one_file_for_the_studies_and_mlflow_is_refused_and_not_created(here: Home) -> None:
    with pytest.raises(UsageError, match="are one file"):
        here.run(here.study(), tracking_uri=here.storage)
    assert not (here.folder / "studies.db").exists()


def test_a_rank_above_the_width_is_refused_before_any_trial(here: Home) -> None:
    with pytest.raises(ModelError, match=r"rank: 128 is above the width"):
        here.run(here.study(space={"rank": [4, 128]}))
    assert here.runs() == [] or all(run.info.status != "RUNNING" for run in here.runs())


def test_texts_longer_than_the_base_allows_are_refused(here: Home) -> None:
    with pytest.raises(ModelError, match="256 positions"):
        here.run(here.study(data={"max_length": 300}))


def test_a_full_disk_is_reported_in_one_message_and_loses_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    mount(small, "3m")
    try:
        place = home(tmp_path / "home")
        study = place.study()
        place.run(study, storage=f"sqlite:///{small}/studies.db", trials=1)
        filler = small / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(b"x" * 4096)
        words = ("run", "--study", str(study), "--storage", f"sqlite:///{small}/studies.db", "--trials", "3")
        full = place.call(*words)
        assert full.returncode == 1 and "disk is full" in full.stderr and "Traceback" not in full.stderr
        filler.unlink()
        place.run(study, storage=f"sqlite:///{small}/studies.db", trials=3)
        (row,) = peftsweep.status(f"sqlite:///{small}/studies.db")
        assert (row["complete"], row["failed"], row["running"]) == (3, 0, 0)
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)  # SQLite may still have it open


def test_a_picture_that_cannot_be_drawn_is_a_warning(here: Home) -> None:
    picture, warned = here.folder / "artifacts" / "small" / "trial-0000" / "confusion_matrix.png", []

    class Watching(Silent):
        def step(self, slots: object, **state: object) -> None:
            picture.mkdir(parents=True, exist_ok=True)  # a folder, which no file can replace

        def warn(self, text: str) -> None:
            warned.append(text)

    assert here.run(here.study(), trials=1, progress=Watching()).counts == {"complete": 1}
    assert [text.partition(" (")[0] for text in warned][-1:] == [f"trial 0 has no {picture.name}: it cannot be drawn"]


def test_each_mistake_gives_one_line_and_an_exit_status(here: Home) -> None:
    study = here.study()
    here.run(study, trials=1)
    mistakes = {
        "train.epochs=3": (1, "train.epochs"),
        "data.text=txet": (2, "did you mean text"),
        f"model.id={here.folder}/bsae": (1, "did you mean base?"),
        "model.id=owner/never-heard-of": (1, "model.id: owner/never-heard-of: "),
        "space.rank=[4, 8]": (1, "space.rank: [2, 4] in the storage, [4, 8] in the file"),
        "train.epochz=1": (2, "did you mean epochs"),
    }
    commands = [["run", "--study", str(study), "--set", setting] for setting in mistakes]
    wide = ["run", "--study", str(here.study("wide")), "--set", "space.rank=[4, 999]"]
    expected = [*mistakes.values(), (1, "rank: 999 is above the width")]
    for done, (status, said) in zip(here.call_each([*commands, wide]), expected, strict=True):
        assert done.returncode == status and said in done.stderr, done.stderr
        assert "Traceback" not in done.stderr and done.stdout == ""
    assert peftsweep.status(here.storage)[0]["complete"] == 1


def test_any_key_of_train_may_be_under_space(here: Home) -> None:
    space = {
        "learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
        "rank": {"low": 2, "high": 8, "log2": True},
        "alpha": [4.0, 16.0],
        "batch_size": [4, 8],
        "epochs": {"low": 1, "high": 2},
        "warmup": {"low": 0.0, "high": 0.3},
        "optimizer": ["adamw", "sgd"],
        "scheduler": ["linear", "cosine", "constant"],
        "max_grad_norm": [0.0, 1.0],
        "weight_decay": {"low": 0.0, "high": 0.1},
    }
    path = here.study(space=space, train={}, search={"trials": 6, "sampler": "tpe"})
    whole = yaml.safe_load(path.read_text())
    whole["train"] = {"evals_per_epoch": 2}
    path.write_text(yaml.safe_dump(whole))
    result = here.run(path, slots=3)
    assert result.counts == {"complete": 6}
    for trial in result.study.trials:
        params = trial.user_attrs["params"]
        assert params["rank"] in (2, 4, 8) and params["alpha"] in (4, 16) and params["epochs"] in (1, 2)
        assert trial.user_attrs["step"] <= params["epochs"] * -(-48 // params["batch_size"])


def test_the_layers_to_adapt_may_be_under_space(here: Home) -> None:
    space = {"target_modules": ["auto", ["query", "value"]]}
    trials = here.run(here.study(space=space, search={"sampler": "grid", "trials": 2})).study.trials
    trained = {str(trial.user_attrs["params"]["target_modules"]): trial.user_attrs["parameters"] for trial in trials}
    assert trained["['query', 'value']"] < trained["auto"]


def test_a_run_from_python_prints_nothing(here: Home) -> None:
    code = f"import mlflow, peftsweep; peftsweep.run({str(here.study())!r}, trials=1)"  # MLflow logs more once imported
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=here.folder, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_run_from_a_thread_works_without_signals(here: Home) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(here.run, here.study(), trials=1).result().counts == {"complete": 1}


def test_the_number_of_threads_and_the_signal_handlers_are_restored(here: Home) -> None:
    threads = torch.get_num_threads()
    here.run(here.study(), trials=1)
    assert torch.get_num_threads() == threads
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

"""Records: what is written reads back, under the keys that studies of earlier versions have."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState as OptunaState

from peftsweep.scores import SCORES, label
from peftsweep.storage import Evaluation, HeldOutScores, Studies, StudyRecord, TrialRecord, TrialState, count_states
from peftsweep.storage.attributes import StudyFacts, TrialFacts, write_study, write_trial
from peftsweep.storage.record import ALWAYS
from peftsweep.task import Task
from tests.stored import kept, made

PACKAGE = Path(__file__).parents[1] / "peftsweep"


def test_what_is_written_of_a_study_reads_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    study = made(url, "one")
    write_study(study, total=8, data="tweets", objective="macro_f1_tuned", in_sync=False)
    write_study(study, test=HeldOutScores(trial=3, scores={"macro_f1": 0.5}))
    record = Studies(url).load("one").record
    assert (record.total, record.data, record.objective, record.in_sync) == (8, "tweets", "macro_f1_tuned", False)
    assert record.test == HeldOutScores(trial=3, scores={"macro_f1": 0.5})
    attrs = study.user_attrs  # by the keys that they have had from the first version on
    assert (attrs["experiment"], attrs["metric"], attrs["mlflow_level"]) == ("tweets", "macro_f1_tuned", False)
    assert attrs["test"] == {"trial": 3, "scores": {"macro_f1": 0.5}}


def test_what_is_written_of_a_trial_reads_back(tmp_path: Path) -> None:
    study = made(f"sqlite:///{tmp_path}/studies.db", "one")
    trial = study.ask()
    look = Evaluation(index=1, step=5, epoch=0.5, train_loss=0.4, learning_rate=1e-3, scores={"macro_f1": 0.6}, at=7)
    write_trial(trial, began=1, params={"rank": 8}, seed=3, evaluations=[look], kept=1, pauses=[[2, 4]])
    (record,) = study.records()
    assert (record.state, record.seed, record.kept, record.pauses) == (TrialState.RUNNING, 3, 1, [[2, 4]])
    assert record.evaluations == [look] and record.begun and record.values == [] and record.value is None
    for key, value in kept(0.6).items():
        trial.set_user_attr(key, value)
    study.tell(trial, 0.6)
    (record,) = study.records()
    assert (record.state, record.values, record.value) == (TrialState.COMPLETE, [0.6], 0.6)


def test_a_trial_has_a_place_for_its_worker_and_its_method_and_need_not_fill_it(tmp_path: Path) -> None:
    study = made(f"sqlite:///{tmp_path}/studies.db", "one")
    write_trial(study.ask(), params={"rank": 8}, worker="a.example/cuda:1", method={"rotations": 12})
    write_trial(study.ask(), params={"rank": 4})
    found = [(record.worker, record.method) for record in study.records()]
    assert found == [("a.example/cuda:1", {"rotations": 12}), (None, {})]


@pytest.mark.parametrize(("facts", "record"), [(StudyFacts, StudyRecord), (TrialFacts, TrialRecord)])
def test_what_can_be_written_can_be_read(facts: type, record: type[StudyRecord | TrialRecord]) -> None:
    assert facts.__annotations__.keys() - {"splits"} <= record.model_fields.keys()


def test_every_state_of_optuna_has_a_word_and_goes_back() -> None:
    for state in OptunaState:
        assert TrialState.of(state).in_optuna == state and TrialState.of(state).finished == state.is_finished()
    assert len({TrialState.of(state) for state in OptunaState}) == len(TrialState)


@pytest.mark.parametrize("live", [True, False])
def test_a_running_trial_is_stopped_where_no_process_runs_its_study(live: bool) -> None:
    counts = count_states([TrialState.RUNNING, TrialState.FAILED, TrialState.RUNNING], live=live)
    assert {state: count for state, count in counts.items() if count} == {
        "failed": 1,
        "running" if live else "stopped": 2,
    }


@pytest.mark.parametrize("kind", ["multi-label", "single-label"])
def test_every_score_has_a_label(kind: str) -> None:
    task = Task("multi-label" if kind == "multi-label" else "single-label", ("a", "b"))
    labels = np.eye(2, dtype=np.float32) if task.multi_label else np.array([0, 1])
    scores = task.scores(np.eye(2, dtype=np.float32), labels)
    assert scores.keys() <= SCORES.keys() and all(label(name) != name for name in scores if "_" in name)
    assert set(ALWAYS) <= scores.keys()


def test_labels_of_scores_stand_in_one_file() -> None:
    """A sentence may name a score; a heading or a table of names takes the label from `peftsweep.scores`."""
    labels = re.compile(r"""["'](tuned )?(macro|micro)-F1(, tuned thresholds)?["']""", re.IGNORECASE)
    files = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".js", ".jinja")]
    assert {path.name for path in files if labels.search(path.read_text(encoding="utf-8"))} == {"scores.py"}

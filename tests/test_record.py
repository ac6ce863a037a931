"""Whatever is written to a record can be read back, under the keys that studies of earlier versions have."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from optuna.trial import TrialState as OptunaState

from peftsweep.dashboard.study_figures import DRAWN_IN_ORDER, LOOKS
from peftsweep.progress.live import STYLES
from peftsweep.scores import SCORES, label
from peftsweep.storage import (
    EvaluationRecord,
    HeldOutScores,
    Retrained,
    Studies,
    StudyRecord,
    SweepRecord,
    TrialRecord,
    WorkerRecord,
)
from peftsweep.storage.attributes import StudyFacts, TrialFacts, write_study, write_trial
from peftsweep.storage.optuna_states import from_optuna, in_optuna
from peftsweep.storage.record import ALWAYS
from peftsweep.storage.record_parts import Bound
from peftsweep.sweep_state import SweepState
from peftsweep.task import Task
from peftsweep.tracking.in_sync import IN_MLFLOW
from peftsweep.trial_state import Ended, TrialState, count_states
from tests.stored import CONFIG, add_study, retrained, trial_attrs

PACKAGE = Path(__file__).parents[1] / "peftsweep"
SOME = {"macro_f1": 0.6, "micro_f1": 0.8, "accuracy": 0.6, "loss": 0.3}
BEHIND = retrained(1, 0.4, behind={"mean": 0.1, "low": -0.1, "high": 0.3, "seeds": 3, "pairs": 1}, test={"seeds": 3})


def test_what_is_written_of_a_study_can_be_read_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    study = add_study(url, "one")
    write_study(study, total=8, data="tweets", objective="macro_f1_tuned", in_sync=False)
    write_study(study, test=HeldOutScores(trial=3, scores={"macro_f1": 0.5}))
    record = Studies(url).load("one").record
    assert (record.total, record.data, record.objective, record.in_sync) == (8, "tweets", "macro_f1_tuned", False)
    assert record.test == HeldOutScores(trial=3, scores={"macro_f1": 0.5})
    attrs = study.user_attrs  # under the keys that the first version used
    assert (attrs["experiment"], attrs["metric"], attrs["mlflow_level"]) == ("tweets", "macro_f1_tuned", False)
    assert attrs["test"] == {"trial": 3, "scores": {"macro_f1": 0.5}}


def test_what_is_written_of_a_trial_can_be_read_back(tmp_path: Path) -> None:
    study = add_study(f"sqlite:///{tmp_path}/studies.db", "one")
    trial = study.ask()
    look = EvaluationRecord(
        index=1, step=5, epoch=0.5, train_loss=0.4, learning_rate=1e-3, scores={"macro_f1": 0.6}, at=7
    )
    write_trial(trial, began=1, params={"rank": 8}, seed=3, evaluations=[look], kept=1, pauses=[[2, 4]])
    (record,) = study.records()
    assert (record.state, record.seed, record.kept, record.pauses) == (TrialState.RUNNING, 3, 1, [[2, 4]])
    assert record.evaluations == [look] and record.begun and record.values == [] and record.value is None
    for key, value in trial_attrs(0.6).items():
        trial.set_user_attr(key, value)
    study.tell(trial, 0.6)
    (record,) = study.records()
    assert (record.state, record.values, record.value) == (TrialState.COMPLETE, [0.6], 0.6)


def test_a_trial_may_record_its_worker_and_facts_of_its_method(tmp_path: Path) -> None:
    study = add_study(f"sqlite:///{tmp_path}/studies.db", "one")
    write_trial(study.ask(), params={"rank": 8}, worker="a.example/cuda:1", method={"rotations": 12})
    write_trial(study.ask(), params={"rank": 4})
    found = [(record.worker, record.method) for record in study.records()]
    assert found == [("a.example/cuda:1", {"rotations": 12}), (None, {})]


STUDY: StudyFacts = {
    "identity": CONFIG,
    "splits": {"train": 12},
    "fingerprint": "rows",
    "validation_fingerprint": "validation rows",
    "data": "tweets",
    "labels": ["a", "b"],
    "kind": "single-label",
    "objective": "macro_f1_tuned",
    "key": "1234",
    "bound": Bound(key="1234", study="every", storage="here", server=None, was="4321"),
    "total": 8,
    "described": {"device": "cpu", "slots": 4, "share": 0.5},
    "memory": {"planned_bytes": 7},
    "test": HeldOutScores(trial=3, scores={"macro_f1": 0.5, "loss": None}),
    "retrained": [Retrained.model_validate(retrained(0, 0.5, kappa_std=None)), Retrained.model_validate(BEHIND)],
    "summary": {"macro_f1_mean": 0.5, "macro_f1_std": None},
    "began": 1,
    "base": "a1b2",
    "mlflow_runs": {"parent": "c3d4"},
    "in_sync": True,
    "mlflow_lost": True,
    "retrain_of": "5678",
    "sweep": SweepRecord(
        token="9abc",
        state=SweepState.RUNNING,
        host="a.example",
        pid=12,
        began=1,
        heartbeat=2,
        workers=[WorkerRecord(number=0, node="b", device="cuda:1", slots=4, rate=10.5, since=2, trials=[3, 5])],
        reason="",
    ),
}
TRIAL: TrialFacts = {
    "params": {"rank": 8, "target_modules": ["q", "v"], "dropout": 0.5},
    "seed": 3,
    "evaluations": [
        EvaluationRecord(index=1, step=5, epoch=0.5, train_loss=0.4, learning_rate=1e-3, scores=SOME, at=7)
    ],
    "scores": SOME,
    "step": 5,
    "parameters": 9,
    "reason": "stopped",
    "seconds": 1.5,
    "adapter": "every/trial-0000/adapter",
    "began": 1,
    "ended": 2,
    "pauses": [[2, 4]],
    "kept": 1,
    "dropped": 2,
    "retrains": 4,
    "replicate": 5,
    "worker": "a.example/cuda:1",
    "method": {"rotations": 12},
}


def test_every_fact_of_a_study_can_be_read_back(tmp_path: Path) -> None:
    studies = Studies(f"sqlite:///{tmp_path}/studies.db")
    study = studies.create("every")
    write_study(study, **STUDY)
    record = studies.load("every").record
    assert {name: getattr(record, name) for name in STUDY if name != "splits"} | {"splits": {"train": 12}} == STUDY
    assert study.user_attrs["splits"] == STUDY["splits"], "only people read it: no record has it"


def test_every_fact_of_a_trial_can_be_read_back(tmp_path: Path) -> None:
    study = add_study(f"sqlite:///{tmp_path}/studies.db", "one")
    trial = study.ask()
    write_trial(trial, **TRIAL)
    study.tell(trial, state=OptunaState.FAIL)
    (record,) = study.records()
    assert {name: getattr(record, name) for name in TRIAL} == TRIAL


@pytest.mark.parametrize(
    ("facts", "record", "others", "all_facts"),
    [
        (StudyFacts, StudyRecord, {"config"}, STUDY),
        (TrialFacts, TrialRecord, {"number", "state", "values", "drawn", "reported"}, TRIAL),
    ],
)
def test_facts_are_written_with_the_types_that_the_record_reads(
    facts: type, record: type[StudyRecord | TrialRecord], others: set[str], all_facts: Mapping[str, Any]
) -> None:
    """`others` are read but never written as facts: Optuna's own, and `config`, which is written as `identity`."""
    written, read = get_type_hints(facts), get_type_hints(record)
    assert written.pop("splits", None) in (None, dict[str, int])
    fields = record.model_fields.keys()
    assert written.keys() == fields - others and all_facts.keys() - {"splits"} == written.keys()
    assert {name: plain(hint) for name, hint in written.items()} == {name: plain(read[name]) for name in written}
    assert [name for name, hint in written.items() if optional(hint) and not optional(read[name])] == []


def plain(hint: Any) -> Any:
    """A type without None at the top, and with dict in place of Mapping."""
    kinds = [kind for kind in (get_args(hint) if optional(hint) else [hint]) if kind is not type(None)]
    return [dict[get_args(kind)] if get_origin(kind) is Mapping else kind for kind in kinds]  # type: ignore[misc]


def optional(hint: Any) -> bool:
    return type(None) in get_args(hint)


def test_a_retrained_configuration_of_another_version_is_written_back_as_it_was() -> None:
    """An earlier one has no `shared` and no `pairs`; a later one may have more."""
    behind = {"mean": 0.1, "low": -0.1, "high": 0.3, "seeds": 3}
    row = {"trial": 1, "params": {"rank": 8}, "sampled": ["rank"], "objective": "macro_f1", "picked": 0.7, "seeds": 3}
    row |= {"failed": 0, "macro_f1_mean": 0.5, "macro_f1_std": None, "behind": behind, "test": None, "later": [1, 2.0]}
    assert json.dumps(Retrained.model_validate(row).as_dict()) == json.dumps(row)


def test_every_state_of_optuna_is_converted_and_converted_back() -> None:
    for state in OptunaState:
        assert in_optuna(from_optuna(state)) == state and from_optuna(state).finished == state.is_finished()
    assert {from_optuna(state) for state in OptunaState} == {*TrialState} - {TrialState.STOPPED}


def test_every_table_has_the_states_that_it_needs() -> None:
    ended, begun = {*get_args(Ended)}, {*TrialState} - {TrialState.WAITING}
    assert ended == {state for state in TrialState if state.finished} == STYLES.keys()
    assert begun == IN_MLFLOW.keys()
    drawn = begun - {TrialState.STOPPED}  # no record has this state, and the page shows records
    assert drawn == LOOKS.keys() == {*DRAWN_IN_ORDER} and len(DRAWN_IN_ORDER) == len(drawn)
    assert [*count_states([], live=True)] == [*TrialState]


def test_states_are_spelt_in_one_file() -> None:
    """MLflow's tags spell them once more, because one of their words is different."""
    spelt = re.compile(rf"""["']({"|".join(TrialState)}|interrupted)["']""")
    files = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".js", ".jinja")]
    found = {path.relative_to(PACKAGE).as_posix() for path in files if spelt.search(path.read_text(encoding="utf-8"))}
    # sweeps have states of their own; `sync` says of a study that its sweep is "running"
    assert found == {"trial_state.py", "sweep_state.py", "tracking/in_sync.py", "sweep/syncing.py"}


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


def test_labels_of_scores_are_in_one_file() -> None:
    """A sentence may name a score; a heading or a table of names takes the label from `peftsweep.scores`."""
    labels = re.compile(r"""["'](tuned )?(macro|micro)-F1(, tuned thresholds)?["']""", re.IGNORECASE)
    files = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".js", ".jinja")]
    assert {path.name for path in files if labels.search(path.read_text(encoding="utf-8"))} == {"scores.py"}

"""A trial's parameters: as Optuna's own ask draws them, even after a process died, or as a person gave them."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from peftsweep.config import StudyConfig
from peftsweep.storage import Studies
from peftsweep.study import enqueued, exhausted, grid_size, samplers, space
from peftsweep.sweep.trial_params import UntrainableError, complete
from tests.stored import add_study, trial_attrs

SPACE: dict[str, Any] = {
    "learning_rate": {"low": 1e-5, "high": 2e-3, "log": True},
    "rank": {"low": 4, "high": 64, "log2": True},
    "dropout": {"low": 0.0, "high": 0.3, "step": 0.1},
    "epochs": [2],
    "batch_size": {"low": 8, "high": 32, "step": 8},
    "scheduler": ["linear", "cosine"],
    "target_modules": ["auto", ["q_proj", "v_proj"]],
    "alpha": [None, 16.0],
}
GRID = {name: entry for name, entry in SPACE.items() if name not in ("learning_rate", "target_modules")}


def study(sampler: str = "random", **space: Any) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": "s",
            "model": {"id": "base"},
            "method": "lora",
            "data": {"train": "a.csv", "text": "text", "labels": "label"},
            "space": space or (GRID if sampler == "grid" else SPACE),
            "search": {"sampler": sampler, "trials": 16},  # TPE draws the first four at random
        }
    )


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/studies.db"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with an empty study."""
    folder = tmp_path_factory.mktemp("empty")
    add_study(url(folder), "s")
    return (folder / "studies.db").read_bytes()


@pytest.fixture
def studies(tmp_path: Path, empty: bytes) -> Studies:
    (tmp_path / "studies.db").write_bytes(empty)
    return Studies(url(tmp_path))


def asked(studies: Studies, config: StudyConfig) -> dict[str, Any]:
    """Ask for the next trial as a sweep does; returns its parameters."""
    return complete(studies, config, studies.load("s").ask(), {})


def resumed(
    studies: Studies, config: StudyConfig, number: int, known: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    return complete(studies, config, studies.adopt(studies.load("s"), number), known or {})


def remove_params(studies: Studies, number: int, count: int) -> None:
    """Remove the last `count` parameters of a trial, as if its process had died before it stored them."""
    with closing(sqlite3.connect(studies.artifacts.parent / "studies.db")) as database, database:
        database.execute(
            "DELETE FROM trial_params WHERE param_id IN (SELECT param_id FROM trial_params JOIN trials USING "
            "(trial_id) WHERE number = ? ORDER BY param_id DESC LIMIT ?)",
            (number, count),
        )


def add_trials(studies: Studies, config: StudyConfig, count: int) -> None:
    """Add `count` trials: some are running, some were pruned, some have failed."""
    trials = studies.load("s")
    dice = optuna.samplers.RandomSampler(seed=count)
    wanted = space.distributions(config)
    for number in range(count):
        state = {2: TrialState.PRUNED, 3: TrialState.RUNNING, 5: TrialState.FAIL}.get(number % 7, TrialState.COMPLETE)
        trial = create_trial(
            state=state,
            value=number % 5 / 5 if state == TrialState.COMPLETE else None,
            params={
                name: dice.sample_independent(trials, create_trial(value=0), name, each)
                for name, each in wanted.items()
            },
            distributions=wanted,
            intermediate_values={1: number / 99},
            user_attrs=trial_attrs(number % 5 / 5 if state == TrialState.COMPLETE else None),
        )
        trials.add_trial(trial)


@pytest.mark.parametrize(
    ("sampler", "before"), [("random", 3), ("tpe", 2), ("tpe", 12), ("grid", 3)], ids=["random", "tpe-0", "tpe", "grid"]
)
def test_a_trial_draws_the_same_however_many_parameters_a_dead_process_had_stored(
    studies: Studies, sampler: str, before: int
) -> None:
    config = study(sampler)
    add_trials(studies, config, before)
    theirs = studies.load("s")
    theirs.sampler = samplers.sampler(config, before)
    wanted = space.distributions(config)
    drawn = theirs.ask(fixed_distributions=wanted).params  # Optuna's own ask, uninterrupted
    assert list(drawn) == list(wanted)
    for count in range(len(drawn) + 1):
        remove_params(studies, before, count)
        assert len(studies.load("s").trials[before].params) == len(drawn) - count
        assert resumed(studies, config, before) == drawn
        assert studies.load("s").trials[before].params == drawn
    assert asked(studies, config) != drawn


def test_lost_parameters_are_restored_from_those_that_the_trial_recorded_when_it_began(studies: Studies) -> None:
    """By then other trials have ended, and TPE would draw something else."""
    config = study("tpe")
    add_trials(studies, config, 6)
    drawn = asked(studies, config)
    before = space.described(config, config.hyperparameters(space.decode(config, drawn)))
    add_trials(studies, config, 6)
    remove_params(studies, 6, 5)
    assert resumed(studies, config, 6, before) == drawn


def test_a_grid_completes_a_point_of_which_some_parameters_are_stored(studies: Studies) -> None:
    """The grid was widened meanwhile, and is shuffled in another order."""
    config, wider = study("grid"), study("grid", **GRID | {"dropout": {"low": 0.0, "high": 0.6, "step": 0.1}})
    for _ in range(3):
        asked(studies, config)
    drawn = asked(studies, config)
    remove_params(studies, 3, 2)
    again = resumed(studies, wider, 3)
    stored = list(drawn)[:-2]
    assert {name: again[name] for name in stored} == {name: drawn[name] for name in stored}
    assert len({tuple(trial.params.items()) for trial in studies.load("s").trials}) == 4


def test_each_point_of_a_grid_is_given_once_whatever_part_of_it_a_person_enqueued(studies: Studies) -> None:
    config = study("grid", rank=GRID["rank"] | {"high": 16}, dropout=GRID["dropout"] | {"high": 0.2})
    for _ in range(3):
        studies.load("s").enqueue_trial({"log2_rank": 3})
    found = []
    while not exhausted(config, studies.load("s")):
        found.append(tuple(asked(studies, config).items()))
    assert len(found) == len(set(found)) == grid_size(config) == 9
    assert all(("log2_rank", 3) in point for point in found[:3])


# What a person gives ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "stored"),
    [
        ({"rank": 8}, {"log2_rank": 3}),
        ({"log2_rank": 3}, {"log2_rank": 3}),
        ({"rank": 4}, {"log2_rank": 2}),
        ({"rank": 64}, {"log2_rank": 6}),
        ({"log2_rank": 2}, {"log2_rank": 2}),
        ({"log2_rank": 6}, {"log2_rank": 6}),
        ({"rank": 8.0, "log2_rank": 3}, {"log2_rank": 3}),
        ({"dropout": 0.1 + 0.2, "batch_size": 24.0}, {"dropout": 0.3, "batch_size": 24}),
        ({"target_modules": ["q_proj", "v_proj"]}, {"target_modules": '["q_proj", "v_proj"]'}),
        ({"target_modules": '["q_proj", "v_proj"]'}, {"target_modules": '["q_proj", "v_proj"]'}),
        ({"alpha": None, "learning_rate": 1e-5}, {"alpha": None, "learning_rate": 1e-5}),
        ({"alpha": 16}, {"alpha": 16.0}),
        ({"weight_decay": 0.01, "optimizer": "adamw", "scheduler": "cosine"}, {"scheduler": "cosine"}),
    ],
)
def test_parameters_are_accepted_under_either_name(params: dict[str, Any], stored: dict[str, Any]) -> None:
    assert enqueued.given(study(), params) == (stored, [])


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"scheduler": "polynomial"}, "scheduler: expected one of linear, cosine, got 'polynomial'"),
        ({"scheduler": None}, "scheduler: expected one of linear, cosine, got None"),
        ({"epochs": True}, "epochs: expected one of 2, got True"),
        ({"dropout": 1.5}, "dropout: expected 0 to 0.3, step 0.1, got 1.5"),
        ({"dropout": 0.15}, "dropout: expected 0 to 0.3, step 0.1, got 0.15"),
        ({"learning_rate": "1e-4"}, "learning_rate: expected 1e-05 to 0.002, log, got '1e-4'"),
        ({"learning_rate": math.nan}, "learning_rate: expected 1e-05 to 0.002, log, got nan"),
        ({"learning_rate": math.inf}, "learning_rate: expected 1e-05 to 0.002, log, got inf"),
        ({"learning_rate": -math.inf}, "learning_rate: expected 1e-05 to 0.002, log, got -inf"),
        ({"learning_rate": -1e-4}, "learning_rate: expected 1e-05 to 0.002, log, got -0.0001"),
        ({"log2_rank": 9}, "log2_rank: expected 2 to 6, got 9"),
        ({"log2_rank": 2.5}, "log2_rank: expected 2 to 6, got 2.5"),
        ({"rank": 6}, "rank: expected 4 to 64, log2, got 6"),
        ({"rank": 10**400}, "rank: expected 4 to 64, log2, got 1000"),
        ({"rank": [8]}, "rank: expected 4 to 64, log2, got [8]"),
        ({"rank": 8, "log2_rank": 2}, "rank and log2_rank say different things: 8 and 2"),
        ({"batch_size": 12}, "batch_size: expected 8 to 32, step 8, got 12"),
        ({"batch_size": {"low": 8}}, "batch_size: expected 8 to 32, step 8, got {'low': 8}"),
        ({"lr": 1e-4}, "lr: this study has no such hyperparameter"),
        ({"learning_rte": 1e-4}, "did you mean learning_rate?"),
        ({"weight_decay": 0.5}, "weight_decay: not searched, all trials have 0.01; got 0.5"),
        ({"rank": 6, "dropout": 9, "scheduler": 1, "x": 1, "y": 1}, "; and 1 more"),
    ],
)
def test_what_is_not_in_the_space_is_reported_with_what_was_expected(params: dict[str, Any], reason: str) -> None:
    _, reasons = enqueued.given(study(), params)
    text = str(UntrainableError(reasons))
    assert reason in text and len(text) < 400 and "\n" not in text


def test_enqueued_parameters_are_stored_and_the_rest_is_drawn(studies: Studies) -> None:
    trials = studies.load("s")
    trials.enqueue_trial({"dropout": 0.1, "rank": 8})
    trials.enqueue_trial({"dropout": 1.5, "rank": 8})
    found = asked(studies, study())
    assert found["log2_rank"] == 3 and found["dropout"] == 0.1 and found.keys() == space.distributions(study()).keys()
    with pytest.raises(UntrainableError, match="dropout"):
        asked(studies, study())
    stored = [trial.params for trial in studies.load("s").trials]
    assert stored == [found, {}]  # nothing is stored of the trial that does not fit
    remove_params(studies, 0, 5)
    assert resumed(studies, study(), 0) == found
    shown = space.described(study(), study().hyperparameters(space.decode(study(), found)))
    studies.load("s").enqueue_trial(shown | {"alpha": found["alpha"]})  # as `best --json` shows a trial
    assert asked(studies, study()) == found


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_parameters_that_were_not_enqueued_are_those_that_optuna_draws(studies: Studies, sampler: str) -> None:
    config = study(sampler)
    add_trials(studies, config, 12)
    theirs = studies.load("s")
    theirs.sampler = samplers.sampler(config, 12)
    theirs.enqueue_trial({"dropout": 0.1, "log2_rank": 3})
    drawn = theirs.ask(fixed_distributions=space.distributions(config)).params
    remove_params(studies, 12, len(drawn))
    assert resumed(studies, config, 12) == drawn


def test_a_trial_that_was_added_by_hand_must_fit_the_space_too(studies: Studies) -> None:
    trials = studies.load("s")
    rank, rate = {"rank": IntDistribution(1, 99)}, {"learning_rate": FloatDistribution(0.0, 9.0)}
    for state in (TrialState.WAITING, TrialState.RUNNING):
        trials.add_trial(create_trial(state=state, params={"rank": 8}, distributions=rank))
        trials.add_trial(create_trial(state=state, params={"rank": 8, "learning_rate": 5.0}, distributions=rank | rate))
    for number in (0, 2):
        found = resumed(studies, study(), number)  # Optuna knows its learning rate with another distribution
        assert found["log2_rank"] == 3 and found.items() <= studies.load("s").trials[number].params.items()
    for number in (1, 3):
        with pytest.raises(UntrainableError, match=r"learning_rate: expected 1e-05 to 0.002, log, got 5.0"):
            resumed(studies, study(), number)


@pytest.mark.parametrize("value", [[1, 2], "rank", 7, None])
def test_enqueued_parameters_that_are_not_a_mapping_are_refused(studies: Studies, value: Any) -> None:
    waits = create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": value})
    studies.load("s").add_trial(waits)
    with pytest.raises(UntrainableError, match="in place of parameters by name"):
        asked(studies, study())

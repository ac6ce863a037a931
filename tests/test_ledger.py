"""The ledger of a study: after any change it answers as if it had read all trials again."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from peftsweep.storage import StoredStudy, Studies, write_trial
from peftsweep.study import Ledger
from peftsweep.study.results import done, is_over, ranked
from tests.stored import add_study, add_trial, trial_attrs


@pytest.fixture
def study(tmp_path: Path) -> StoredStudy:
    url = f"sqlite:///{tmp_path}/studies.db"
    for value in (0.5, 0.7):
        add_trial(add_study(url, "one") if value == 0.5 else Studies(url).load("one"), value)
    return Studies(url).load("one")


def check(ledger: Ledger, study: StoredStudy) -> None:
    trials = study.records()
    assert ledger.begun == sum(trial.begun for trial in trials) and ledger.done == done(trials)
    assert ledger.best(0, 100) == ranked(trials) and ledger.best(1, 3) == ranked(trials)[1:3]
    assert [ledger.is_over(total) for total in (0, len(trials))] == [is_over(trials, n) for n in (0, len(trials))]
    assert ledger.latest(4) == [trial for trial in trials if trial.number > trials[-1].number - 4]
    for index in (1, 2, 3):
        scores = [t.reported[index] for t in trials if index in t.reported and t.state != "failed"]
        finite = [score if math.isfinite(score) else -math.inf for score in scores]
        assert list(ledger.rungs.at(index)) == sorted(finite)


def change(dice: random.Random, study: StoredStudy, running: list[optuna.Trial]) -> None:
    """What may happen to a study: a trial begins, reports or ends, or another program adds one."""
    kind = dice.choice(["begin", "report", "report", "end", "foreign", "enqueue"])
    if kind == "foreign":
        study.add_trial(optuna.create_trial(value=0.99, intermediate_values={1: 0.98}))
    elif kind == "enqueue":
        study.enqueue_trial({})
    elif kind == "begin" or not running:
        running.append(study.ask())
        write_trial(running[-1], params={"rank": 8}, seed=0)
    elif kind == "report":
        trial = dice.choice(running)
        index = 1 + len(study._storage.get_trial(trial._trial_id).intermediate_values)
        trial.report(dice.choice([0.1, 0.2, 0.2, 0.9, math.nan, math.inf]), index)
    else:
        trial = running.pop(dice.randrange(len(running)))
        state = dice.choice([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
        value = dice.choice([0.3, 0.3, 0.6]) if state == TrialState.COMPLETE else None
        for key, attr in trial_attrs(value).items():
            trial.set_user_attr(key, attr)
        study.tell(trial, value, state=state)


@pytest.mark.parametrize("seed", range(3))
def test_a_ledger_answers_as_if_it_had_read_all_trials_again(study: StoredStudy, seed: int) -> None:
    (held,) = Studies(study._rdb.url).hold(study)
    ledger, dice, running = Ledger(held), random.Random(seed), list[optuna.Trial]()
    check(ledger, held)
    for step in range(150):
        change(dice, held, running)
        if dice.random() < 0.5:
            check(ledger, held)
        if step % 40 == 0:
            held.flush()
    check(ledger, held)
    held.flush()
    check(Ledger(held), held)
    again = Studies(study._rdb.url).load("one")
    check(Ledger(again), again)  # of a study that is read from the database each time


def test_an_answer_takes_no_longer_with_more_trials(study: StoredStudy) -> None:
    (held,) = Studies(study._rdb.url).hold(study)
    ledger, seconds = Ledger(held), dict[int, float]()
    for size in (100, 4000):
        while held._storage.get_n_trials(held._study_id) < size:
            held.add_trial(optuna.create_trial(value=0.3, user_attrs=trial_attrs(0.3)))
        assert ledger.done == size
        began = time.process_time()
        for _ in range(200):
            trial = held.ask()
            assert ledger.best(0, 1)[0].value == 0.7 and ledger.begun > size and held.trial(trial.number)
            write_trial(trial, params={"rank": 8}, reason="it diverged")
            held.tell(trial, state=TrialState.FAIL)
        seconds[size] = time.process_time() - began
    assert seconds[4000] < 3 * seconds[100]

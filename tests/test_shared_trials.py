"""Several workers share the trials of a study: each gets its part, and all are judged together."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from peftsweep.engine import Evaluated, Event, Report, StartTrials, TrialEnded, Verdicts
from peftsweep.sweep import SweepResult
from peftsweep.sweep.run_study import run_together
from peftsweep.workers import Answer, Call, Failed, Lost
from tests.pools import TurnsPool
from tests.studies import Home, home


@pytest.fixture
def here(tmp_path: Path) -> Home:
    return home(tmp_path / "home")


def run_on(pool: TurnsPool, place: Home, *studies: Path) -> list[SweepResult]:
    return run_together(list(studies), lambda: pool, storage=place.storage, tracking_uri=place.tracking_uri)


def trials_of(result: SweepResult) -> dict[int, int]:
    """Number of trials that each worker trained."""
    return dict(Counter(int(trial.user_attrs["worker"].split()[0]) for trial in result.study.trials))


class Growing(TurnsPool):
    """Three workers join while the first loads.

    Attributes:
        most: largest number of trials that were in training at once.
    """

    running = most = 0

    def call(self, worker: int, name: Call, *arguments: Any) -> None:
        starts = [each for each in arguments[0] if isinstance(each, StartTrials)] if name == "advance" else []
        self.running += sum(len(each.trials) for each in starts)
        self.most = max(self.most, self.running)
        super().call(worker, name, *arguments)

    def wait(self, seconds: float) -> Sequence[Answer | Failed | Lost]:
        if self.loads == 0:
            self.workers |= dict.fromkeys(itertools.islice(self.numbers, 3))
        answers = super().wait(seconds)
        self.running -= sum(isinstance(event, TrialEnded) for event in events_of(answers))
        return answers


def events_of(answers: Sequence[Answer | Failed | Lost]) -> list[Event]:
    values = [answer.value for answer in answers if isinstance(answer, Answer)]
    return [event for value in values if isinstance(value, list) for event in value]


def test_workers_that_join_while_the_first_one_loads_get_as_many_trials(here: Home) -> None:
    pool = Growing(1)
    (result,) = run_on(pool, here, here.study(search={"trials": 8}))
    assert trials_of(result) == {0: 2, 1: 2, 2: 2, 3: 2} and pool.loads == 4
    assert result.counts == {"complete": 8}


def test_trials_that_were_kept_for_workers_that_are_lost_as_they_build_start_at_once_elsewhere(here: Home) -> None:
    builds = itertools.count()
    pool = Growing(1, replaced=False, struck=lambda name, _: "gone" if name == "build" and next(builds) else None)
    (result,) = run_on(pool, here, here.study(search={"trials": 8}))
    assert trials_of(result) == {0: 8} and pool.most == 8


def test_more_workers_than_studies_all_get_trials(here: Home) -> None:
    pool = TurnsPool(4)
    results = run_on(pool, here, *(here.study(name, search={"trials": 6}) for name in "abc"))
    assert [trials_of(each) for each in results] == [{0: 3, 3: 3}, {1: 6}, {2: 6}]
    assert pool.loads == 4


def test_a_worker_for_which_no_trial_would_be_left_loads_nothing(here: Home) -> None:
    pool = TurnsPool(3)
    (result,) = run_on(pool, here, here.study(search={"trials": 2}))
    assert trials_of(result) == {0: 1, 1: 1} and pool.loads == 2


def test_trials_do_not_wait_for_workers_that_never_come(here: Home) -> None:
    class Hoping(TurnsPool):
        def size(self) -> int:
            return 4

    (result,) = run_on(Hoping(1), here, here.study(search={"trials": 5}))
    assert trials_of(result) == {0: 5}


class Judged(TurnsPool):
    """A pool that remembers the verdicts on each worker's reports, in the order in which they were given."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.verdicts: list[tuple[int, Sequence[Report], Sequence[bool]]] = []
        self.reports: dict[int, Sequence[Report]] = {}

    def wait(self, seconds: float) -> Sequence[Answer | Failed | Lost]:
        answers = super().wait(seconds)
        for event in events_of(answers):
            if isinstance(event, Evaluated):
                self.reports[answers[0].worker] = event.reports
        return answers

    def call(self, worker: int, name: Call, *arguments: Any) -> None:
        for command in arguments[0] if name == "advance" else ():
            if isinstance(command, Verdicts):
                self.verdicts.append((worker, self.reports.pop(worker), command.keep))
        super().call(worker, name, *arguments)

    def _answer(self, number: int, name: Call, arguments: tuple[Any, ...]) -> Any:
        value = super()._answer(number, name, arguments)
        if name == "build":  # workers take turns by evaluations, not by seconds
            pack_worker = self._worker(number).worker
            assert pack_worker is not None
            pack_worker.heartbeat = math.inf
        return value

    def halved(self, *, together: bool) -> list[bool]:
        """Verdicts by which the better half of all values at evaluation 4 goes on, or of the worker's own."""
        seen, found = defaultdict[int, list[float]](list), list[bool]()
        for worker, reports, _ in self.verdicts:
            at, so_far = reports[0].evaluation.index, seen[0 if together else worker]
            values = [each.evaluation.scores["macro_f1"] for each in reports]
            so_far += values if at == 4 else []
            found += [at != 4 or value >= sorted(so_far)[-max(1, len(so_far) // 2)] for value in values]
        return found


def test_trials_of_all_workers_are_pruned_together(here: Home) -> None:
    changes: dict[str, Any] = {"space": {"learning_rate": {"low": 3e-3, "high": 1e-2}}}
    changes["train"] = {"epochs": 6, "evals_per_epoch": 1}
    changes["search"] = {"trials": 12, "pruner": {"reduction": 2, "min_evals": 4}}
    pool = Judged(3)
    (result,) = run_on(pool, here, here.study(**changes))
    assert trials_of(result) == {0: 4, 1: 4, 2: 4}
    given = [kept for _, _, keep in pool.verdicts for kept in keep]
    assert given == pool.halved(together=True) != pool.halved(together=False)


def test_trials_of_all_workers_are_proposed_together(here: Home) -> None:
    space = {"learning_rate": [1e-3, 2e-3, 4e-3], "rank": [2, 4]}
    (result,) = run_on(TurnsPool(3), here, here.study(space=space, search={"trials": 6, "sampler": "grid"}))
    assert len(trials_of(result)) == 3
    assert len({tuple(trial.params.items()) for trial in result.study.trials}) == 6

"""The estimated time left in recorded sweeps, compared with the time that was really left.

The sweeps were recorded on two cores that they shared with other programs, and their pace was steady to a factor of
two: no estimate can foresee how busy other programs will be. `demo` trains the demo's base on fewer rows, the others
train a tiny base. `demo`, `pruned` and `dropped` use halving, which ended 6 of 8, 4 of 30 and 28 of 40 trials;
`batches` searches for the batch size. A recording has the milliseconds at which each step was done, and for each trial
its first step, the number of its steps and of its evaluations, after which steps it was evaluated, and whether it was
pruned.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from peftsweep.engine import SlotStatus, StepTime
from peftsweep.storage import TrialRecord
from peftsweep.study import Halving
from peftsweep.sweep.time_left import Pace, survival_rates, time_left
from tests.stored import frozen_trial, record

RECORDED = Path(__file__).parent / "recorded"
FACTOR = 2.0  # by which the time left may be wrong, from the first estimate on


def estimates(recorded: dict[str, Any], *, stretch: float = 1.0) -> Iterator[tuple[float, float | None]]:
    """For each step, the seconds since the first step and the estimated seconds left."""
    halving = None if recorded["halving"] is None else Halving(*recorded["halving"])
    pace, trials, before = Pace(), recorded["trials"], 0.0
    for step, at in enumerate(recorded["at"]):
        now = at / 1000 * stretch
        begun = [trial for trial in trials if trial[0] <= step]
        running = [trial for trial in begun if trial[3][-1] > step]
        slots = [SlotStatus(i) for i in range(recorded["slots"])]
        for i, (first, steps, evaluations, made, _) in enumerate(running):
            done = sum(after <= step for after in made)
            slots[i] = SlotStatus(
                i, trials.index(running[i]), step - first + 1, steps, evaluated=done, evaluations=evaluations
            )
        pace.add_trials(slots)
        if step:
            took = sum(trial[3][-1] >= step for trial in begun)
            pace.add_steps([StepTime(now - before, took, sum(step in trial[3] for trial in begun))])
        before = now
        shares = survival_rates([stored(trial, step) for trial in begun], halving, pace.typical_trial().evaluations)
        yield now, time_left(pace, slots, len(trials) - len(begun), shares)


def stored(trial: list[Any], step: int) -> TrialRecord:
    *_, made, pruned = trial
    done = sum(after <= step for after in made)
    ended = TrialState.PRUNED if pruned else TrialState.COMPLETE
    state = ended if done == len(made) else TrialState.RUNNING
    found = frozen_trial(0.5 if state == TrialState.COMPLETE else None, state, kept=done)
    found.intermediate_values = dict.fromkeys(range(1, done + 1), 0.5)
    return record(found)


@pytest.mark.parametrize("name", ["demo", "whole", "pruned", "batches", "dropped"])
def test_the_time_left_is_right_within_a_factor_of_two_once_it_is_reported(name: str) -> None:
    recorded = json.loads((RECORDED / f"{name}.json").read_text())
    answers = list(estimates(recorded))
    end = answers[-1][0]
    wrong = {}
    for share in (0.1, 0.25, 0.5, 0.75):  # later, one stall takes longer than the rest of so short a sweep
        at, left = next(answer for answer in answers if answer[0] >= share * end)
        if left is None:
            assert share < 0.5, "a sweep that is half done has a pace"
        elif not 1 / FACTOR <= left / (end - at) <= FACTOR:
            wrong[share] = (left, end - at)
    assert not wrong
    assert answers[-1][1] == 0.0


def test_nothing_is_reported_before_there_is_a_pace() -> None:
    recorded = json.loads((RECORDED / "demo.json").read_text())
    answers = [left for _, left in estimates(recorded)]
    first = next(i for i, left in enumerate(answers) if left is not None)
    assert first >= min(made[0] for _, _, _, made, _ in recorded["trials"])
    assert None not in answers[first:]


def test_a_machine_that_becomes_slower_is_noticed() -> None:
    pace = Pace()
    slots = [SlotStatus(0, 0, 0, 10_000, evaluations=10)]
    pace.add_trials(slots)
    for step, seconds in enumerate([0.1] * 2000 + [0.4] * 500):
        pace.add_steps([StepTime(seconds, 1, int(step % 100 == 99))])
    left = time_left(pace, slots, 0, {})
    assert left is not None and 0.35 * 10_000 < left < 0.45 * 10_000


def test_no_trial_starts_after_the_deadline() -> None:
    pace = Pace()
    slots = [SlotStatus(i, i, 50, 100, evaluated=1, evaluations=2) for i in range(4)]
    pace.add_trials(slots)
    pace.add_steps(StepTime(1.0, 4, int(step == 10)) for step in range(20))
    whole, none = (time_left(pace, slots, 40, {}, deadline) for deadline in (math.inf, 10.0))
    assert whole is not None and none is not None
    assert whole > 15 * none and 40 < none < 60


@pytest.mark.parametrize("deadline", [math.inf, 200_000.0], ids=["all", "until"])
@pytest.mark.parametrize("shares", [{}, {1: 0.3, 3: 0.3}], ids=["whole", "pruned"])
def test_if_many_trials_wait_some_are_simulated_and_the_others_take_as_long(
    shares: dict[int, float], deadline: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace = Pace()
    slots = [SlotStatus(i, i, 97 * i, 1000, evaluated=i, evaluations=10) for i in range(10)]
    pace.add_trials(slots)
    pace.add_steps(StepTime(1.0, 10, step % 3) for step in range(100))
    some = [time_left(pace, slots, coming, shares, deadline) for coming in (400, 501, 5000)]
    monkeypatch.setattr("peftsweep.sweep.time_left.SIMULATED", 5000)
    assert some == pytest.approx(
        [time_left(pace, slots, coming, shares, deadline) for coming in (400, 501, 5000)], rel=0.02
    )
    assert some[0] < some[1] < some[2]


def test_an_estimate_takes_little_time() -> None:
    pace = Pace()
    slots = [SlotStatus(i, i, 0, 1000, evaluations=30) for i in range(64)]
    pace.add_trials(slots)
    pace.add_steps(StepTime(1.0, 64, step % 10) for step in range(1000))
    began = time.process_time()
    for _ in range(5):
        time_left(pace, slots, 1_000_000, {1: 0.3, 3: 0.3, 9: 0.3, 27: 0.3})
    assert time.process_time() - began < 1  # each takes about 0.02 s, and one is made every second

"""The estimated time left in recorded sweeps, compared with the time that was really left.

`demo` is the demo, recorded by `tools/record_sweep.py`. The others were recorded by an earlier program on two cores
that they shared with other programs, and their pace was steady to a factor of two: no estimate can foresee how busy
other programs will be. `few` trains the demo's base on fewer rows, the others train a tiny base. `few`, `pruned` and
`dropped` use halving, which ended 6 of 8, 4 of 30 and 28 of 40 trials; `batches` searches for the batch size. No sweep
on a GPU is recorded: its reports are modelled (`recorded_sweeps.modelled`).
"""

from __future__ import annotations

import math
import time

import pytest

from peftsweep.engine import SlotStatus, StepTime
from peftsweep.study import Halving
from peftsweep.sweep.time_left import TimeLeft, passed_rungs
from tests.recorded_sweeps import Recording, estimates, modelled, recording, stored

SHARE, LEAST = 0.25, 5.0  # by which the time left may be wrong: this share of it, or so many seconds
FACTOR = 2.0  # the same for the recordings of busy machines


def wrong(sweep: Recording, begins: float = 0.0) -> list[tuple[float, float, float | None]]:
    """The estimates after a third of the command that are too far from the truth. The first second of training tells
    nothing yet, if that comes later."""
    late = [each for each in estimates(sweep) if each[0] >= max(sweep["end"] / 3000, begins + 1)]
    assert len(late) > 10
    return [(at, true, told) for at, true, told in late if told is None or abs(told - true) > max(SHARE * true, LEAST)]


@pytest.mark.parametrize("name", ["demo"])
def test_the_time_left_is_right_within_a_quarter_from_a_third_on(name: str) -> None:
    assert not wrong(recording(name))


@pytest.mark.parametrize("begins", [12.0, 26.0], ids=["warm", "cold"])
def test_the_time_left_in_a_modelled_sweep_on_a_gpu_is_right_within_a_quarter_from_a_third_on(begins: float) -> None:
    """The reports are worked out, not recorded, at the rates of an H200: 11,900 samples/s with 40 slots,
    8,600 with 13, 4,300 with 4."""
    assert not wrong(modelled(fixed=0.0107, sample=1.07e-3 / 16, begins=begins), begins)


@pytest.mark.parametrize("name", ["few", "whole", "pruned", "batches", "dropped"])
def test_the_time_left_on_a_busy_machine_is_right_within_a_factor_of_two(name: str) -> None:
    sweep = recording(name)
    answers, end = list(estimates(sweep)), sweep["end"] / 1000
    for share in (0.1, 0.25, 0.5, 0.75):  # later, one stall takes longer than the rest of so short a sweep
        _, true, told = next(answer for answer in answers if answer[0] >= share * end)
        if told is None:
            assert share < 0.5, "a sweep that is half done has a pace"
        else:
            assert 1 / FACTOR <= told / true <= FACTOR, share
    assert answers[-1][2] == 0.0


def test_once_the_time_left_is_told_it_is_always_told() -> None:
    for name in ("demo", "few", "batches"):
        told = [left is not None for _, _, left in estimates(recording(name))]
        assert told == sorted(told)


def steady(*slots: SlotStatus, seconds: float = 1.0, evaluations: int = 0, halving: Halving | None = None) -> TimeLeft:
    """After 20 steps of these slots that took so many seconds each."""
    found = TimeLeft(halving, validation=0)
    found.add(slots, [StepTime(seconds, sum(slot.batch_size for slot in slots), evaluations)] * 20)
    return found


def test_no_trial_starts_after_the_deadline() -> None:
    slots = [SlotStatus(i, i, 50, 100, evaluated=1, evaluations=2, batch_size=8) for i in range(4)]
    whole, none = (steady(*slots).seconds(slots, 40, [], deadline) for deadline in (math.inf, 10.0))
    assert whole is not None and none is not None
    assert whole > 15 * none and 45 < none < 55


def test_a_trial_that_the_pruner_has_dropped_is_not_waited_for() -> None:
    slots = [SlotStatus(i, i, 90 * i, 100, evaluated=i, evaluations=2, batch_size=8) for i in range(2)]
    told = steady(*slots).seconds(slots, 0, [stored(0, dropped=1), stored(1, kept=1)])
    assert told is not None and 5 < told <= 10


def test_a_trial_counts_at_each_rung_that_it_has_reached() -> None:
    trials = [stored(0, kept=9), stored(1, kept=2), stored(2, kept=2, dropped=3), stored(3, dropped=1), stored(4)]
    assert passed_rungs(trials, Halving(3, 1)) == {1: (4, 3), 3: (2, 1), 9: (1, 1)}
    assert passed_rungs(trials, None) == {}


def test_an_estimate_takes_little_time() -> None:
    slots = [SlotStatus(i, i, 0, 1000, evaluations=30, batch_size=8) for i in range(64)]
    time_left = steady(*slots, halving=Halving(3, 1))
    time_left.add(slots, (StepTime(1.0, 64, step % 10) for step in range(1000)))
    began = time.process_time()
    for _ in range(5):
        time_left.seconds(slots, 1_000_000, [])
    assert time.process_time() - began < 1  # each takes about 0.02 s, and one is made every second

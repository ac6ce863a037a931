"""Which steps a pack has left, simulated."""

from __future__ import annotations

import math

import pytest

from peftsweep.engine import SlotStatus
from peftsweep.study import Halving
from peftsweep.sweep import steps_left
from peftsweep.sweep.steps_left import Chances, Left, Passed, Simulation

NEW = SlotStatus(0, 0, 0, 120, evaluations=6, batch_size=10)  # of trials in all tests


def left(
    running: int,
    upcoming: int = 0,
    halving: Halving | None = None,
    passed: dict[int, Passed] | None = None,
    **more: float,
) -> Left:
    """What is left of a pack of new trials."""
    chances = Chances(halving, passed or {}, draw=0.0)
    return Simulation(chances, [NEW], upcoming, running, **more).run([NEW] * running)


def test_each_running_trial_takes_the_steps_that_it_has_left() -> None:
    half = SlotStatus(0, 0, 60, 120, evaluated=3, evaluations=6, batch_size=10)
    found = Simulation(Chances(None, {}, 0.0), [NEW], 0, 2).run([half, NEW])
    assert found == Left(steps=120, samples=1800, evaluations=9)


def test_upcoming_trials_take_the_slots_that_become_free() -> None:
    assert left(2, upcoming=3) == Left(steps=360, samples=6000, evaluations=30)


def test_of_trials_that_come_to_a_rung_together_the_pruner_keeps_as_many_as_it_will() -> None:
    """40 trials: 13 go on after the first evaluation, and 4 after the third."""
    found = left(40, halving=Halving(3, 1))
    assert found == Left(steps=120, samples=200 * 40 + 400 * 13 + 600 * 4, evaluations=40 + 2 * 13 + 3 * 4)


def test_a_verdict_that_is_known_is_not_guessed_again() -> None:
    kept = SlotStatus(0, 0, 20, 120, evaluated=1, evaluations=6, batch_size=10)
    for reached in (Passed(9, 0), Passed(9, 9)):
        found = Simulation(Chances(Halving(3, 1), {1: reached}, 0.0), [NEW], 0, 1).run([kept])
        assert found.samples in (400, 1000)


def test_the_share_that_passes_a_rung_becomes_what_it_was_so_far() -> None:
    few = left(300, halving=Halving(3, 1), passed={1: Passed(1000, 100)})
    many = left(300, halving=Halving(3, 1), passed={1: Passed(1000, 900)})
    assert 2 * few.samples < many.samples


def test_no_trial_starts_after_the_latest_step() -> None:
    assert left(2, upcoming=9, latest=130).samples == 2 * 2 * 1200


@pytest.mark.parametrize("latest", [math.inf, 8_000.0], ids=["all", "until"])
@pytest.mark.parametrize("halving", [None, Halving(3, 1)], ids=["whole", "pruned"])
def test_if_many_trials_wait_some_are_simulated_and_the_others_take_as_long(
    halving: Halving | None, latest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [left(10, coming, halving, latest=latest) for coming in (150, 201, 2000)]
    monkeypatch.setattr(steps_left, "SIMULATED", 2000)
    for found, coming in zip(some, (150, 201, 2000), strict=True):
        whole = left(10, coming, halving, latest=latest)
        assert found.steps == pytest.approx(whole.steps, rel=0.1)
        assert found.samples == pytest.approx(whole.samples, rel=0.1)
    assert some[0].steps < some[1].steps < some[2].steps

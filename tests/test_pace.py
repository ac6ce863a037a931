"""What a step costs, found from the times of steps."""

from __future__ import annotations

import pytest

from peftsweep.engine import StepTime
from peftsweep.sweep.pace import FIXED, MIN_STEPS, Pace

FIRST = StepTime(9.0, 64, 0)


def pace(*steps: StepTime, validation: int = 0) -> Pace:
    """After these steps and a first one, which does not count."""
    found = Pace(validation)
    found.add([FIRST, *steps])
    return found


def test_there_is_no_pace_before_a_few_steps() -> None:
    assert pace(*[StepTime(1.0, 64, 0)] * (MIN_STEPS - 1)).costs() is None
    assert pace(*[StepTime(1.0, 64, 0)] * MIN_STEPS).costs() is not None


def test_the_parts_of_a_step_are_told_apart_once_steps_differ() -> None:
    kinds = [(640, 0)] * 50 + [(640, 40)] + [(208, 0)] * 50  # samples, evaluations
    found = pace(*(StepTime(0.1 + 0.002 * samples + 0.5 * made, samples, made) for samples, made in kinds))
    assert found.costs() == pytest.approx((0.1, 0.002, 0.5), rel=0.2)


def test_before_that_most_of_a_long_step_is_for_its_samples_and_an_evaluation_is_a_forward_pass() -> None:
    fixed, sample, evaluation = pace(*[StepTime(2.0, 100, 0)] * 20, validation=300).costs() or (0, 0, 0)
    assert fixed == pytest.approx(FIXED) and sample == pytest.approx((2 - FIXED) / 100)
    assert evaluation == pytest.approx(300 * sample / 3)


def test_most_of_a_short_step_may_be_its_fixed_part() -> None:
    fixed, sample, _ = pace(*[StepTime(0.01, 100, 0)] * 20).costs() or (0, 0, 0)
    assert fixed == pytest.approx(100 * sample)


def test_a_machine_that_becomes_slower_is_noticed() -> None:
    found = pace(*[StepTime(seconds, 16, 0) for seconds in [0.1] * 2000 + [0.4] * 500]).costs()
    assert found is not None and found.fixed + 16 * found.sample == pytest.approx(0.4, rel=0.1)


def test_an_evaluation_that_was_long_ago_still_counts() -> None:
    found = pace(StepTime(7.1, 16, 2), *[StepTime(0.1, 16, 0)] * 5000, validation=10).costs()
    assert found is not None and found.evaluation == pytest.approx(3.5, rel=0.1)


def test_a_night_in_which_the_machine_slept_does_not_count_as_training() -> None:
    found = pace(*[StepTime(30_000.0 if step == 50 else 0.1, 16, 0) for step in range(200)]).costs()
    assert found is not None and found.fixed + 16 * found.sample < 0.12

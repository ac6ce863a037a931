"""Of many trials that were lost together, the one that kills its workers is found, and soon."""

from __future__ import annotations

import random
from collections import deque

import pytest

from peftsweep.sweep.suspects import Suspects


def train(trials: int, slots: int, killers: set[int], seed: int) -> tuple[set[int], int, int]:
    """One worker after the other trains all trials until each has reached four evaluations. A killer kills its worker
    on the way to one of them, which `seed` decides. Returns who was found guilty, the losses, and the rounds of
    evaluations."""
    suspects, waiting, guilty = Suspects(), deque(range(trials)), set[int]()
    chance = random.Random(seed)
    fatal = {killer: chance.randrange(4) for killer in killers}
    reached, losses, rounds = dict.fromkeys(range(trials), 0), 0, 0
    at: list[int] = []  # on the worker of this moment
    while at or waiting:
        while (
            len(at) < slots and (new := next((e for e in waiting if suspects.may_begin(losses, e)), None)) is not None
        ):
            waiting.remove(new)
            suspects.begin(losses, new)
            at.append(new)
        rounds += 1
        if any(fatal.get(each) == reached[each] for each in at):
            found = suspects.lose(at)
            suspects.leave(losses)
            waiting += [each for each in at if each != found]
            guilty, losses, at = guilty | ({found} - {None}), losses + 1, []
        for each in at:
            reached[each] += 1
            suspects.reach(losses, each)
            if reached[each] == 4:
                suspects.end(losses, each)
        at = [each for each in at if reached[each] < 4]
    return guilty, losses, rounds


@pytest.mark.parametrize("seed", range(20))
def test_one_killer_among_76_trials_is_found_after_a_few_losses(seed: int) -> None:
    guilty, losses, rounds = train(76, 76, {17}, seed)
    assert guilty == {17} and losses <= 4
    assert rounds < 40  # 4 without a killer, and 304 if each trial were alone


@pytest.mark.parametrize("seed", range(20))
def test_several_killers_are_found_and_nobody_else_is(seed: int) -> None:
    guilty, losses, _ = train(60, 16, {3, 17, 18, 41}, seed)
    assert guilty == {3, 17, 18, 41} and losses <= 16


def test_a_loss_for_another_reason_delays_a_pack_by_a_few_evaluations_only() -> None:
    suspects = Suspects()
    for trial in range(76):
        suspects.begin(0, trial)
    assert suspects.lose([*range(76)]) is None
    together = 0
    while suspects.may_begin(1, together):
        suspects.begin(1, together)
        together += 1
    assert together == 8 and not suspects.may_begin(1, None)
    for trial in range(together):
        suspects.reach(1, trial)
    assert suspects.may_begin(1, None) and suspects.may_begin(1, together)


def test_a_trial_that_reaches_an_evaluation_between_losses_is_never_guilty() -> None:
    suspects = Suspects()
    for worker in range(10):
        suspects.begin(worker, 0)
        assert suspects.lose([0]) is None
        suspects.reach(worker, 0)

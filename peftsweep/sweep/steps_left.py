"""Which steps does a pack have left? They are simulated.

In one step of the pack, every slot that has a trial takes one step. Each upcoming trial takes the slot that becomes
free first, and is like one of those seen before. At each rung, the pruner keeps as many of the trials that reach it
together as if all scores were equally likely, corrected by the share that it has kept so far. Only the first few
hundred upcoming trials are simulated; the rest are assumed to take as long on average.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from peftsweep.engine import SlotStatus
from peftsweep.study import Halving

SIMULATED = 200  # most upcoming trials in a simulation
GOLDEN = 0.6180339887498949  # its multiples, modulo 1, are spread evenly over the unit interval


class Passed(NamedTuple):
    """How many trials have reached a rung, and how many of them were kept."""

    reached: int = 0
    kept: int = 0


@dataclass
class Left:
    """Steps of the pack; samples and evaluations of all its trials together."""

    steps: float = 0.0
    samples: float = 0.0
    evaluations: float = 0.0


class Chances:
    """What a simulation leaves to chance: the pruner's verdicts, and what upcoming trials are like.

    Args:
        passed: by rung, what is known of its verdicts so far.
        draw: from 0 to 1; other draws give other simulations.
    """

    def __init__(self, halving: Halving | None, passed: Mapping[int, Passed], draw: float) -> None:
        self._halving, self._passed, self._draw = halving, passed, draw
        self._reached = Counter({rung: known.reached for rung, known in passed.items()})
        self._number = itertools.count()

    def luck(self) -> float:
        """From 0 to 1."""
        return (self._draw + GOLDEN * next(self._number)) % 1

    def next_verdict(self, trial: SlotStatus) -> int:
        """The evaluation after which the trial may end."""
        rungs = () if self._halving is None else self._halving.rungs(trial.evaluations)
        return next((rung for rung in rungs if rung > trial.evaluated), trial.evaluations)

    def kept(self, rung: int, trials: int) -> int:
        """How many of the trials that reach a rung together are kept."""
        assert self._halving is not None
        known, aim = self._passed.get(rung, Passed()), self._halving.reduction
        self._reached[rung] += trials
        equal = max(1, self._reached[rung] // aim) / self._reached[rung]
        share = (known.kept + aim * equal) / (known.reached + aim)  # the prior weighs as much as `aim` trials
        return min(trials, math.floor(trials * share + self.luck()))


class Simulation:
    """
    Args:
        like: trials that upcoming ones are like.
        upcoming: number of trials that have not started.
        slots: number of all slots.
        latest: no trial starts after so many steps.
    """

    def __init__(
        self, chances: Chances, like: Sequence[SlotStatus], upcoming: int, slots: int, latest: float = math.inf
    ) -> None:
        self.chances, self.like, self.upcoming, self.slots, self.latest = chances, like, upcoming, slots, latest
        self.left, self.later = Left(), Left()  # of all trials; of upcoming ones, and `steps` are theirs, too
        self.due: list[tuple[int, int, int, SlotStatus]] = []  # a heap: step of the next verdict, order, verdict, trial
        self.order = itertools.count()
        self.started, self.last_start = 0, 0

    def run(self, running: Sequence[SlotStatus]) -> Left:
        """What is left.

        Args:
            running: slots that have a trial.
        """
        for trial in running:
            self.go_on(trial, 0)
        for _ in range(self.slots - len(running)):
            self.start(0)
        while self.due:
            now, judged = self.due[0][0], defaultdict[int, list[SlotStatus]](list)
            ended = 0
            while self.due and self.due[0][0] == now:
                _, _, verdict, trial = heapq.heappop(self.due)
                if verdict < trial.evaluations:
                    judged[verdict].append(trial)
                else:
                    ended += 1
            ended += sum(self.judge(rung, trials, now) for rung, trials in judged.items())
            for _ in range(ended):
                self.start(now)
            self.left.steps = now
        self.add_others()
        return self.left

    def start(self, now: int) -> None:
        """Start the next upcoming trial, if there is one."""
        if self.started < min(self.upcoming, SIMULATED) and now <= self.latest:
            self.started, self.last_start = self.started + 1, now
            like = self.like[int(self.chances.luck() * len(self.like))]
            self.go_on(replace(like, trial=None, step=0, evaluated=0), now)

    def go_on(self, trial: SlotStatus, now: int) -> None:
        """Train a trial until its next verdict."""
        verdict = self.chances.next_verdict(trial)
        steps = max(0, step_of(trial, verdict) - trial.step)
        for sums in (self.left, self.later) if trial.trial is None else (self.left,):
            sums.samples += steps * trial.batch_size
            sums.evaluations += verdict - trial.evaluated
        self.later.steps += steps if trial.trial is None else 0
        heapq.heappush(self.due, (now + steps, next(self.order), verdict, trial))

    def judge(self, rung: int, trials: Sequence[SlotStatus], now: int) -> int:
        """Keep some of the trials that have reached a rung; returns the number of the others."""
        kept, first = self.chances.kept(rung, len(trials)), int(self.chances.luck() * len(trials))
        for i in range(kept):
            trial = trials[(first + i) % len(trials)]
            self.go_on(replace(trial, step=step_of(trial, rung), evaluated=rung), now)
        return len(trials) - kept

    def add_others(self) -> None:
        """The upcoming trials that were not simulated keep all slots busy for longer."""
        if self.started < SIMULATED or not self.later.steps:
            return
        each = self.later.steps / self.started / self.slots
        others = min(self.upcoming - self.started, max(0.0, (self.latest - self.last_start) / each))
        self.left.steps += others * each
        self.left.samples += others * self.later.samples / self.started
        self.left.evaluations += others * self.later.evaluations / self.started


def step_of(trial: SlotStatus, evaluation: int) -> int:
    """The step after which an evaluation comes; see `Schedule.evaluation_step`."""
    return round(trial.steps * evaluation / max(1, trial.evaluations))

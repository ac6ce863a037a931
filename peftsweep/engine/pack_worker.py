"""How does a study talk to a pack? By messages alone: commands come in, events go out.

`advance` is the only call. The pack trains until the study has to decide something, and goes on with the answer.
Nothing here calls the study, so a worker may run in another process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

from peftsweep.engine.messages import (
    Command,
    Event,
    Idle,
    Progress,
    SaveCheckpoints,
    Scored,
    ScoreTrial,
    StartTrials,
    StepTime,
    Stop,
    TrialsWanted,
    Verdicts,
)
from peftsweep.engine.pack import Pack

HEARTBEAT = 1.0


class PackWorker:
    """A state machine around a pack.

    Args:
        heartbeat: seconds between two `Progress` events.
    """

    def __init__(self, pack: Pack, heartbeat: float = HEARTBEAT) -> None:
        self.pack, self.heartbeat = pack, heartbeat
        self.begun = self.stopped = self.has_all_trials = False
        self.unfilled = 0  # free slots for which the study was asked before this step
        self.step_times: list[StepTime] = []  # since the last `Progress`
        self.last_progress = self.last_step = -math.inf

    def advance(self, commands: Iterable[Command] = ()) -> list[Event]:
        """Obey the commands, then train until the study has to decide, a heartbeat is due, or no trial is left."""
        pack, post = self.pack, self.pack.outbox.post
        with pack.clock.at("other"):
            self.begin()
            for command in commands:
                self.obey(command)
            while not (pack.outbox.events or pack.undecided or self.wants_trials or self.is_idle):
                self.step()
            if self.wants_trials:
                self.unfilled = pack.slots.free
                post(TrialsWanted(self.unfilled))
            elif self.is_idle and not pack.undecided:
                self.post_progress()
                post(Idle())
        return pack.outbox.drain()

    def begin(self) -> None:
        """Prepare the pack for training, once. Building a pack does not do this, since many are only measured."""
        if self.begun:
            return
        self.begun = True
        if self.pack.packed.last is None:
            self.pack.outbox.note("last block: computed for all tokens, which is slower: the base fails with fewer")
        if self.pack.compiled:
            self.pack.packed.compile()

    def obey(self, command: Command) -> None:
        pack = self.pack
        match command:
            case StartTrials(trials, more):
                self.has_all_trials = not more
                pack.admit(trials)
                self.unfilled = pack.slots.free
            case Verdicts(keep):
                pack.decide(keep)
            case SaveCheckpoints():
                pack.save(pack.slots.occupied)
            case Stop():
                self.stopped = True
                pack.save(slot for slot in pack.slots.occupied if slot not in pack.undecided)
            case ScoreTrial(trial, adapter):
                slot = pack.slots.start(trial)
                try:
                    pack.outbox.post(Scored(trial.number, pack.evaluator.on_test(slot, adapter)))
                finally:
                    pack.slots.vacate(slot)

    @property
    def wants_trials(self) -> bool:
        return self.pack.slots.free > self.unfilled and not (self.pack.undecided or self.stopped or self.has_all_trials)

    @property
    def is_idle(self) -> bool:
        return self.stopped or not self.pack.slots.occupied

    def step(self) -> None:
        """One step of the pack, its time, and `Progress` when it is due."""
        began, running = time.perf_counter(), len(self.pack.slots.occupied)
        self.pack.step()
        ended, self.unfilled = time.perf_counter(), 0
        since = began if self.last_step == -math.inf else self.last_step  # with what the study did in between
        self.step_times.append(StepTime(ended - since, running, len(self.pack.undecided)))
        self.last_step = ended
        if ended >= self.last_progress + self.heartbeat:
            self.post_progress()

    def post_progress(self) -> None:
        self.pack.outbox.post(Progress(self.pack.slots.status(), tuple(self.step_times)))
        self.step_times, self.last_progress = [], time.perf_counter()

"""How does a study talk to a pack? By messages alone: commands come in, events go out.

`advance` is the only call. The pack trains until the study has to decide something, and goes on with the answer.
Nothing here calls the study, so a worker may run in another process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping

import torch

from peftsweep.engine.leaders import Leaders
from peftsweep.engine.messages import (
    Command,
    EndTrial,
    Event,
    Idle,
    Progressed,
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
from peftsweep.engine.trial import Trial
from peftsweep.errors import first_line
from peftsweep.system.temporary import TemporaryFolder
from peftsweep.trial_state import TrialState

HEARTBEAT = 1.0


class PackWorker:
    """A state machine around a pack.

    Args:
        heartbeat: seconds between two `Progressed` events.
        leaders: which complete trials are reported with their weights. By default, all.
    """

    def __init__(self, pack: Pack, heartbeat: float = HEARTBEAT, leaders: Leaders | None = None) -> None:
        self.pack, self.heartbeat, self.leaders = pack, heartbeat, leaders
        self.begun = self.stopped = self.has_all_trials = False
        self.ending: dict[int, str] = {}  # by trial: why it is to end
        self.unfilled = 0  # free slots for which the study was asked before this step
        self.step_times: list[StepTime] = []  # since the last `Progressed`
        self.counts: tuple[int, int] | None = None  # samples and evaluations of the last step, until its time is noted
        self.began = 0.0  # when that step began
        self.last_progress = -math.inf

    def advance(self, commands: Iterable[Command] = ()) -> list[Event]:
        """Obey the commands, then train until the study has to decide, a heartbeat is due, or no trial is left."""
        pack, post = self.pack, self.pack.outbox.post
        with pack.clock.at("other"):
            self.begin()
            for command in commands:
                self.obey(command)
            self.end_trials()
            while not (pack.outbox.events or pack.undecided or self.wants_trials or self.is_idle):
                self.step()
            if self.wants_trials:
                self.unfilled = pack.slots.free
                post(TrialsWanted(self.unfilled))
            elif self.is_idle and not pack.undecided:
                self.close_step_time()
                self.post_progress()
                post(Idle())
        events = pack.outbox.drain()
        return events if self.leaders is None else self.leaders.lightened(events)

    def begin(self) -> None:
        """Prepare the pack for training, once. Building a pack does not do this, since many are only measured."""
        if self.begun:
            return
        self.begun = True
        if self.pack.packed.last is None:
            self.pack.outbox.note("last block: computed for all tokens, which is slower: the base fails with fewer")
        if self.pack.compiled:
            self.pack.packed.compile(last=self.pack.compiles_last)

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
                self.save()
            case Stop():
                self.stopped = True
                self.save()
            case EndTrial(number, reason):
                self.ending[number] = reason
            case ScoreTrial(trial, adapter):
                pack.outbox.post(self.score(trial, adapter))

    def end_trials(self) -> None:
        """End the trials that the study wants to end. One that it has not judged yet ends after that."""
        if self.ending:
            self.pack.settle()
        for slot in self.pack.slots.occupied:
            if slot.trial.number in self.ending and slot not in self.pack.undecided:
                why = f"{self.ending.pop(slot.trial.number)} at step {slot.step} of {slot.schedule.steps}"
                self.pack.end(slot, TrialState.PRUNED, why)

    def save(self) -> None:
        """Save every slot but those that the study has not judged yet: see `Pack.decide`."""
        with self.pack.clock.at("checkpoints"):
            self.pack.settle()
            self.pack.checkpoints.save(self.pack.decided())

    def score(self, trial: Trial, adapter: Mapping[str, bytes]) -> Scored:
        (slot,) = self.pack.slots.start([trial])
        try:
            with TemporaryFolder() as folder:
                for name, content in adapter.items():
                    (folder / name).write_bytes(content)
                return Scored(trial.number, self.pack.evaluator.on_test(slot, folder))
        except torch.OutOfMemoryError as error:
            return Scored(trial.number, None, first_line(error))
        finally:
            self.pack.slots.vacate(slot)

    @property
    def wants_trials(self) -> bool:
        return self.pack.slots.free > self.unfilled and not (self.pack.undecided or self.stopped or self.has_all_trials)

    @property
    def is_idle(self) -> bool:
        return self.stopped or not self.pack.slots.occupied

    def step(self) -> None:
        """One step of the pack, and `Progressed` when it is due."""
        self.close_step_time()
        self.began = time.perf_counter()
        samples = sum(slot.trial.params.batch_size for slot in self.pack.slots.occupied)
        self.pack.step()
        self.unfilled, self.counts = 0, (samples, len(self.pack.undecided))
        if time.perf_counter() >= self.last_progress + self.heartbeat:
            self.post_progress()

    def close_step_time(self) -> None:
        """Note the time of the step before: until now, so that it has what the study did after it."""
        if self.counts is not None:
            self.step_times.append(StepTime(time.perf_counter() - self.began, *self.counts))
            self.counts = None

    def post_progress(self) -> None:
        self.pack.outbox.post(Progressed(self.pack.slots.status(), tuple(self.step_times)))
        self.step_times, self.last_progress = [], time.perf_counter()

"""The pack: K trials on one frozen base, in one process, a step at a time.

A pack is a state machine. It trains until something must be decided, says so in messages, and goes on with the answers:
admit → batch → forward and backward → update → prefetch → record → evaluate → decide.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn

from peftsweep.config import TrainConfig
from peftsweep.engine import checkpoint, messages, optimizer
from peftsweep.engine.batching import Batcher
from peftsweep.engine.clock import Clock
from peftsweep.engine.equivalence import samples_of
from peftsweep.engine.evaluation import Evaluator, Examples
from peftsweep.engine.limits import Limits
from peftsweep.engine.messages import Command, Event, StepTime
from peftsweep.engine.optimizer import SlotUpdate
from peftsweep.engine.packed_model import PackedModel
from peftsweep.engine.runner import Runner
from peftsweep.engine.slot import Slot
from peftsweep.engine.slots import Slots
from peftsweep.engine.trial import Report, Result, State, Trial
from peftsweep.methods import Method
from peftsweep.task import Task

HEARTBEAT = 1.0  # seconds between two `Progress` events


class Pack:
    """K slots over one frozen base.

    Args:
        model: a `transformers` model for sequence classification, frozen; its layers are wrapped in place.
        method: the adapters to train on it.
        test: the split that `ScoreTrial` scores.
        candidates: hyperparameters that bound what trials may ask for (widest rank, every choice of layers).
        slots: K.
        objective: the score by which a trial's evaluations are compared; see `Task.scores`.
        compiled: compile the backbone's blocks before the first step, where adapters and attention are kernels: half a
            minute once, and faster steps.
        heartbeat: seconds between two `Progress` events.

    Raises:
        ModelError: the architecture does not give the same logits packed as it gives text by text.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        task: Task,
        train: Examples,
        validation: Examples,
        test: Examples | None = None,
        *,
        candidates: Sequence[TrainConfig],
        slots: int,
        limits: Limits | None = None,
        compiled: bool = False,
        objective: str = "macro_f1",
        heartbeat: float = HEARTBEAT,
    ) -> None:
        self.compiled, self.heartbeat = compiled, heartbeat
        self.device = next(model.parameters()).device
        samples = samples_of((train.input_ids, validation.input_ids), model)
        mean = float(np.mean([len(text) for text in train.input_ids]))
        self.packed = PackedModel(model, method, candidates, slots, samples, mean)
        self.stack = self.packed.stack
        self.batcher = Batcher(self.packed, self.packed.corpus(train.input_ids), np.asarray(train.labels))
        self.outbox = messages.Outbox()
        self.runner = Runner(self.packed, task, self.batcher, limits or Limits(), self.outbox.note)
        self.evaluator = Evaluator(self.runner, method, task, validation, test)
        self.slots = Slots(self.packed, method, len(train.input_ids), objective)
        self.clock = Clock()
        self.undecided: list[Slot] = []  # evaluated, with no verdict yet
        self.begun = self.stopped = self.asked = self.all_given = False
        self.times: list[StepTime] = []  # since the last `Progress`
        self.beat = self.step_ended = -math.inf

    # The door -------------------------------------------------------------------------------------------------------

    def advance(self, commands: Iterable[Command] = ()) -> list[Event]:
        """Obey the commands, then train until something must be decided, a heartbeat is due, or nothing is left."""
        with self.clock.at("other"):
            self.begin()
            for command in commands:
                self.obey(command)
            while not (self.outbox.events or self.undecided or self.wants_trials or self.is_idle):
                self.step()
            if self.wants_trials:
                self.asked = True
                self.outbox.post(messages.TrialsWanted(self.slots.free))
            elif self.is_idle and not self.undecided:
                self.post_progress()
                self.outbox.post(messages.Idle())
        return self.outbox.drain()

    def begin(self) -> None:
        """What the first call does: it is not part of building a pack, for many are built only to be measured."""
        if self.begun:
            return
        self.begun = True
        if self.packed.last is None:
            self.outbox.note("last block: run for all tokens, and slower for it: with fewer the base errs")
        if self.compiled:
            self.packed.compile()

    def obey(self, command: Command) -> None:
        match command:
            case messages.StartTrials(trials, more):
                self.all_given = not more
                self.admit(trials)
            case messages.Verdicts(keep):
                self.decide(keep)
            case messages.SaveCheckpoints():
                self.save(self.slots.occupied)
            case messages.Stop():
                self.stopped = True
                self.save(slot for slot in self.slots.occupied if slot not in self.undecided)
            case messages.ScoreTrial(trial, adapter):
                slot = self.slots.start(trial)
                try:
                    self.outbox.post(messages.Scored(trial.number, self.evaluator.on_test(slot, adapter)))
                finally:
                    self.slots.vacate(slot)

    @property
    def wants_trials(self) -> bool:
        return self.slots.free > 0 and not (self.undecided or self.stopped or self.all_given or self.asked)

    @property
    def is_idle(self) -> bool:
        return self.stopped or not self.slots.occupied

    def post_progress(self) -> None:
        self.outbox.post(messages.Progress(self.slots.status(), tuple(self.times)))
        self.times, self.beat = [], time.perf_counter()

    # The loop -------------------------------------------------------------------------------------------------------

    def admit(self, trials: Iterable[Trial]) -> None:
        """Give trials to free slots. Those that were evaluated before a process died have no verdict yet."""
        started = [self.slots.start(trial) for trial in trials]
        self.await_verdicts([slot for slot in started if slot.evaluated])

    def step(self) -> None:
        """One optimizer step of every occupied slot, and the evaluations that are due after it."""
        began, running = time.perf_counter(), len(self.slots.occupied)
        with self.clock.at("training"):
            self.train()
        with self.clock.at("evaluation"):
            evaluated = self.evaluate([slot for slot in self.slots.occupied if slot.due])
        ended = time.perf_counter()
        for slot in self.slots.occupied:
            slot.seconds += (ended - began) / len(self.slots.occupied)
        self.await_verdicts(evaluated)
        since = began if self.step_ended == -math.inf else self.step_ended
        self.times.append(StepTime(ended - since, running, len(evaluated)))
        self.step_ended, self.asked = ended, False
        if ended >= self.beat + self.heartbeat:
            self.post_progress()

    def train(self) -> None:
        """Batch, forward and backward, update, prefetch; and only then record the losses, for which a GPU's queue must
        run empty."""
        began = time.perf_counter()
        losses, unfit = self.runner.forward_backward(self.slots.occupied)
        self.end_unfit(unfit)
        slots = [slot for slot in self.slots.occupied if slot.index in losses]
        if not slots:
            return
        updates = [SlotUpdate(s.index, s.step, s.schedule.learning_rate(s.step), s.trial.params) for s in slots]
        norms = self.runner.with_room(lambda: optimizer.step(self.stack, updates))  # [K]
        self.stack.grads.zero_()
        found = torch.cat([torch.stack([losses[slot.index] for slot in slots]), norms])  # [k + K]
        for slot in slots:
            slot.step += 1
        self.runner.prefetch([slot for slot in slots if slot.step < slot.schedule.steps])
        numbers = found.tolist()  # here, and not before, a GPU is waited for
        seconds = time.perf_counter() - began
        for slot, loss in zip(slots, numbers[: len(slots)], strict=True):
            slot.record(loss, seconds)
            if why := _not_finite(loss, norm=numbers[len(slots) + slot.index]):
                self.end(slot, "failed", f"{why} at step {slot.step}")

    def evaluate(self, slots: Sequence[Slot]) -> list[Slot]:
        """Score the slots on the validation split; returns those that stay: a score that is not finite fails its
        trial."""
        if not slots:
            return []
        scored, unfit = self.evaluator.on_validation(slots)
        self.end_unfit(unfit)
        for each in scored:
            if bad := each.not_finite:
                self.end(each.slot, "failed", f"{', '.join(bad)} not finite at step {each.slot.step}")
            else:
                each.slot.evaluated_as(each.scores, each.logits)
        return [each.slot for each in scored if not each.not_finite]

    def await_verdicts(self, slots: Sequence[Slot]) -> None:
        self.undecided += slots
        if slots:
            reports = (Report(slot.trial, slot.evaluations[-1], slot.seconds) for slot in slots)
            self.outbox.post(messages.Evaluated(tuple(reports)))

    def decide(self, keep: Sequence[bool]) -> None:
        """Keep or end the trials that were evaluated.

        Their checkpoints are saved only now: a process that dies before finds all of them as they were before the
        evaluation, to be judged together again. Those that are dropped need none.
        """
        slots, self.undecided = self.undecided, []
        verdicts = list(zip(slots, keep, strict=True))
        self.save(slot for slot, kept in verdicts if kept or slot.is_done)
        for slot, kept in verdicts:
            if slot.is_done:
                self.end(slot, "complete", f"all {slot.schedule.steps} steps")
            elif not kept:
                self.end(slot, "pruned", f"pruned at step {slot.step} of {slot.schedule.steps}")

    def save(self, slots: Iterable[Slot]) -> None:
        with self.clock.at("checkpoints"):
            for slot in slots:
                checkpoint.save(slot, self.stack)

    def end_unfit(self, unfit: Iterable[tuple[Slot, str]]) -> None:
        """End trials that have no room even alone: pruned, so that the sampler learns to stay away."""
        for slot, reason in unfit:
            self.end(slot, "pruned", f"out of memory, even alone: {reason}")

    def end(self, slot: Slot, state: State, reason: str) -> None:
        """Free the slot and say how its trial ended."""
        self.slots.vacate(slot)
        self.asked = False  # for this slot, nobody has
        weights = checkpoint.best_weights(slot) if state == "complete" else None
        result = Result(
            state=state,
            reason=reason,
            step=slot.step,
            seconds=slot.seconds,
            best=slot.best,
            parameters=slot.parameters,
            status=slot.status(),
            weights=weights,
            logits=slot.best_logits,
        )
        self.outbox.post(messages.TrialEnded(slot.trial, result))

    def release(self) -> None:
        """Give the base back as it was, what graphs hold, and threads; and forget what was compiled for this pack, for
        a process compiles so many variants of one code, and then no more."""
        self.runner.close()
        self.packed.release()
        if self.device.type == "cuda":
            torch.compiler.reset()


def _not_finite(loss: float, norm: float) -> str:
    if not math.isfinite(loss):
        return f"loss is {loss}"
    return "" if math.isfinite(norm) else f"gradient norm is {norm}"

"""How do K trials train at once on one frozen base? A pack's loop, an optimizer step at a time:
admit → batch → forward and backward → update → prefetch → record → evaluate → decide."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np
from torch import nn

from peftsweep.config import TrainConfig
from peftsweep.engine.batching import Batcher
from peftsweep.engine.checkpoints import CHECKPOINT_EVERY, Checkpoints
from peftsweep.engine.clock import Clock
from peftsweep.engine.equivalence import samples_of
from peftsweep.engine.evaluation import Evaluator, Examples
from peftsweep.engine.limits import Limits
from peftsweep.engine.messages import Evaluated, TrialEnded
from peftsweep.engine.oom import UNFIT
from peftsweep.engine.outbox import Outbox
from peftsweep.engine.packed_model import PackedModel
from peftsweep.engine.runner import Runner
from peftsweep.engine.slot import Slot
from peftsweep.engine.slots import Slots
from peftsweep.engine.step_results import StepResults
from peftsweep.engine.trial import Report, Trial
from peftsweep.methods import Method
from peftsweep.task import Task
from peftsweep.trial_state import Ended, TrialState


class Pack:
    """K slots over one frozen base. What happens to their trials is posted to `outbox`.

    Args:
        model: a frozen `transformers` model for sequence classification. Its layers are wrapped in place.
        test: the split on which finished trials are scored.
        candidates: hyperparameters that bound what trials may ask for (the widest rank, every choice of layers).
        compiled, compiles_last: whether to compile the backbone's blocks, and the last one too: slow once, then faster.
        objective: the score by which a trial's evaluations are compared; see `Task.scores`.

    Raises:
        ModelError: the packed base does not give the logits that it gives text by text.
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
        compiles_last: bool = True,
        objective: str = "macro_f1",
        checkpoint_every: float = CHECKPOINT_EVERY,
    ) -> None:
        self.compiled, self.compiles_last, self.outbox, self.clock = compiled, compiles_last, Outbox(), Clock()
        samples = samples_of((train.input_ids, validation.input_ids), model)
        self.packed = packed = PackedModel(model, method, candidates, slots, samples, train.input_ids)
        self.stack = packed.stack
        self.batcher = Batcher(packed, packed.corpus(train.input_ids), np.asarray(train.labels))
        self.runner = Runner(packed, task, self.batcher, limits or Limits(), self.outbox.note)
        self.evaluator = Evaluator(self.runner, method, task, validation, test)
        self.slots = Slots(packed, method, len(train.input_ids), objective)
        self.checkpoints, self.results = Checkpoints(packed.stack, checkpoint_every), StepResults(packed.device)
        self.undecided: list[Slot] = []  # evaluated; the study has not decided yet

    def admit(self, trials: Iterable[Trial]) -> None:
        """Start trials in free slots. A trial whose process died before the study had decided is reported again."""
        self.await_decision([slot for slot in self.slots.start(list(trials)) if slot.evaluated])

    def step(self) -> None:
        """Take one optimizer step in every occupied slot, and evaluate the trials that are due."""
        began = time.perf_counter()
        with self.clock.at("training"):
            losses, unfit = self.runner.forward_backward(self.slots.occupied)
            self.end_unfit(unfit)
            if losses:
                norms = self.runner.update(self.slots.occupied)
                self.runner.prefetch([slot for slot in self.slots.occupied if not slot.is_done])
                self.results.add(self.slots.occupied, losses, norms, began)
            self.settle(0 if any(slot.due for slot in self.slots.occupied) else self.results.ahead)
        with self.clock.at("evaluation"):
            evaluated = self.evaluate([slot for slot in self.slots.occupied if slot.due])
        self.slots.share_seconds(time.perf_counter() - began)
        self.await_decision(evaluated)
        with self.clock.at("checkpoints"):
            self.checkpoints.step(self.decided, self.settle)

    def settle(self, ahead: int = 0) -> None:
        """Read the losses of all steps but the last `ahead`, and end the trials in which they are not finite."""
        with self.clock.at("training"):
            for slot, reason in self.results.read(lambda: self.slots.occupied, ahead):
                self.end(slot, TrialState.FAILED, reason)

    def decided(self) -> list[Slot]:
        """The slots that the study has judged: see `decide`."""
        return [slot for slot in self.slots.occupied if slot not in self.undecided]

    def evaluate(self, slots: Sequence[Slot]) -> list[Slot]:
        """Score slots on the validation split; returns those that stay. A trial fails if a score is not finite."""
        scored, unfit = self.evaluator.on_validation(slots)
        self.end_unfit(unfit)
        for each in scored:
            if lost := ", ".join(each.not_finite):
                self.end(each.slot, TrialState.FAILED, f"{lost} not finite at step {each.slot.step}")
            else:
                each.slot.add_evaluation(each.scores)
                self.checkpoints.keep_best(each.slot, each.logits)
        return [each.slot for each in scored if not each.not_finite]

    def await_decision(self, slots: Sequence[Slot]) -> None:
        self.undecided += slots
        if slots:
            self.outbox.post(Evaluated(tuple(Report(slot.trial, slot.evaluations[-1], slot.seconds) for slot in slots)))

    def decide(self, keep: Sequence[bool]) -> None:
        """Keep or end the evaluated trials, as the study decided."""
        slots, self.undecided = self.undecided, []
        for slot, kept in zip(slots, keep, strict=True):
            if slot.is_done:
                self.end(slot, TrialState.COMPLETE, f"all {slot.schedule.steps} steps")
            elif not kept:
                self.end(slot, TrialState.PRUNED, f"pruned at step {slot.step} of {slot.schedule.steps}")

    def end_unfit(self, unfit: Iterable[tuple[Slot, str]]) -> None:
        """End trials that do not fit into memory even alone as pruned, so that the sampler learns to avoid them."""
        for slot, reason in unfit:
            self.end(slot, TrialState.PRUNED, f"{UNFIT}: {reason}")

    def end(self, slot: Slot, state: Ended, reason: str) -> None:
        """Free the slot and report how its trial ended."""
        self.slots.vacate(slot)
        self.checkpoints.left(slot.trial)
        self.outbox.post(TrialEnded(slot.trial, slot.result(state, reason)))

    def release(self) -> None:
        """Restore the base, and free what the pack holds: graphs, threads and compiled code."""
        self.checkpoints.finish()
        self.results.clear()
        self.runner.close()
        self.packed.release()

"""The pack: K trials on one frozen base, in one process, a step at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peftsweep.config import TrainConfig
from peftsweep.engine import checkpoint, optimizer
from peftsweep.engine.clock import Clock, TimedSource
from peftsweep.engine.graphs import Graphs
from peftsweep.engine.lanes import Lanes
from peftsweep.engine.limits import Limits, Note, silent
from peftsweep.engine.memory import Relief, Share, telling_full_memory
from peftsweep.engine.optimizer import Turn
from peftsweep.engine.packing import Packed
from peftsweep.engine.proof import samples_of
from peftsweep.engine.rows import Corpus, Places, Text, batch_of
from peftsweep.engine.schedule import Schedule
from peftsweep.engine.slot import Part, Slot
from peftsweep.engine.stack import Stack, any_layout
from peftsweep.engine.trial import Report, Result, Scores, SlotStatus, Trial, TrialSource
from peftsweep.engine.wave import Wave
from peftsweep.methods import Method
from peftsweep.task import Task, tuned

T = TypeVar("T")


class Examples(Protocol):
    """A tokenised split: the texts' token ids, and labels float32 [n, C] or int64 [n]."""

    @property
    def input_ids(self) -> Sequence[Text]: ...

    @property
    def labels(self) -> NDArray[np.generic]: ...


class Pack:
    """K slots over one frozen base.

    Args:
        model: a `transformers` model for sequence classification, frozen; its layers are wrapped in place.
        method: the adapters to train on it.
        candidates: hyperparameters that bound what trials may ask for (widest rank, every choice of layers).
        slots: K.
        objective: the score by which a trial's evaluations are compared; see `Task.scores`.
        note: told what a person should know of, in a line.
        compiled: compile the backbone's blocks when it begins to run, where adapters and attention are kernels: half a
            minute once, and faster steps.

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
        *,
        candidates: Sequence[TrainConfig],
        slots: int,
        limits: Limits | None = None,
        compiled: bool = False,
        objective: str = "macro_f1",
        note: Note = silent,
    ) -> None:
        self.task, self.method, self.train, self.validation = task, method, train, validation
        self.limits, self.compiled = Limits() if limits is None else limits, compiled
        self.objective, self.note = objective, note
        self.device = next(model.parameters()).device
        samples = samples_of((train.input_ids, validation.input_ids), model)
        mean = float(np.mean([len(text) for text in train.input_ids]))
        self.packed = Packed(model, method, candidates, slots, samples, mean)
        self.stack: Stack = self.packed.stack
        self.corpus, self.unseen = (self.packed.corpus(split.input_ids) for split in (train, validation))
        self.lays_ahead = self.device.type == "cuda"
        self.ahead: tuple[tuple[tuple[int, int, int], ...], list[Wave]] | None = None  # the next step's, and for whom
        self.slots: list[Slot | None] = [None] * slots
        self.training, self.evaluation = Share(slots, "step", note), Share(slots, "evaluation", note)
        self.graphs = Graphs(note) if self.packed.attention != "padded" else None
        self.lanes = Lanes(slots if self.device.type == "cpu" and not self.packed.keeps_state else 1)
        if (lanes := self.lanes.count) > 1:  # so many passes at once
            shares = {
                "train_tokens": self.limits.train_tokens // lanes,
                "eval_tokens": self.limits.eval_tokens // lanes,
            }
            self.limits = replace(self.limits, **shares)
        self.clock = Clock()

    # The loop -------------------------------------------------------------------------------------------------------

    def run(self, source: TrialSource) -> None:
        """Train the source's trials until it has no more, or says stop."""
        source = TimedSource(source, self.clock)
        if self.packed.last is None:
            self.note("last block: run for all tokens, and slower for it: with fewer the base errs")
        if self.compiled:
            self.packed.compile()
        while self.fill(source):
            began = time.perf_counter()
            with self.clock.at("training"):
                self.step(source)
            with self.clock.at("evaluation"):
                evaluated = self.evaluate([slot for slot in self.occupied() if slot.due], source)
            seconds = time.perf_counter() - began
            running = self.occupied()
            for slot in running:
                slot.seconds += seconds / len(running)
            self.decide(evaluated, source)
            if not source.stepped([self.status(i) for i in range(len(self.slots))], seconds):
                for slot in self.occupied():
                    self.save(slot)
                return

    def fill(self, source: TrialSource) -> bool:
        """Give each free slot a trial while there are any. False when all slots stay free."""
        started = []
        while None in self.slots and (trial := source.next()) is not None:
            started.append(self.start(self.slots.index(None), trial))
        if undecided := [slot for slot in started if slot.evaluated]:  # the process died before they left their slots
            self.decide(undecided, source)
            return self.fill(source)
        return bool(self.occupied())

    def start(self, index: int, trial: Trial) -> Slot:
        """Put a trial into a free slot: from its newest checkpoint if it has one, else from its seed."""
        stack = self.stack
        stack.clear(index)
        adapted = frozenset(self.method.targets(trial.params)) | frozenset(self.packed.heads)
        stack.start(index, trial.params, adapted, torch.Generator().manual_seed(trial.seed))
        slot = Slot(
            index=index,
            trial=trial,
            schedule=Schedule(trial.params, len(self.train.input_ids)),
            parameters=self.parameters(trial.params),
            objective=self.objective,
        )
        folder = checkpoint.newest(trial.folder)
        if folder is not None:
            checkpoint.restore(slot, stack, folder)
        self.slots[index] = slot
        return slot

    def step(self, source: TrialSource) -> None:
        """One optimizer step of every occupied slot: schedule, forward and backward, update, and only then a look at
        the numbers, for which a GPU's queue must run empty."""
        began = time.perf_counter()
        losses = self.losses(self.occupied(), source)
        slots = [slot for slot in self.occupied() if slot.index in losses]
        if not slots:
            return
        turns = [Turn(s.index, s.step, s.schedule.learning_rate(s.step), s.trial.params) for s in slots]
        norms = self.with_room(lambda: optimizer.step(self.stack, turns))  # [K]
        self.stack.grads.zero_()
        found = torch.cat([torch.stack([losses[slot.index] for slot in slots]), norms])  # [k + K]
        for slot in slots:
            slot.step += 1
        if self.lays_ahead:  # the GPU is still at work on this step
            self.lay_ahead([slot for slot in slots if slot.step < slot.schedule.steps][: self.training.slots])
        numbers = found.tolist()  # here, and not before, a GPU is waited for
        for slot, loss in zip(slots, numbers[: len(slots)], strict=True):
            norm = numbers[len(slots) + slot.index]
            if math.isfinite(loss) and math.isfinite(norm):
                slot.count(loss)
                continue
            what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient norm is {norm}"
            self.end(slot, source, "failed", f"{what} at step {slot.step}")
        seconds = time.perf_counter() - began
        for slot in slots:
            rate = slot.trial.params.batch_size / seconds
            slot.rate = rate if slot.rate == 0 else 0.9 * slot.rate + 0.1 * rate

    def lay_ahead(self, slots: Sequence[Slot]) -> None:
        """Lay out these slots' next step and capture what is new in it, unless memory is full: then it is done when it
        is due, where that is met."""
        self.ahead = None
        if not slots:
            return
        with suppress(torch.OutOfMemoryError), any_layout():
            waves = self.waves(slots)
            self.ahead = (_key(slots), waves)
            if self.graphs is not None:
                self.graphs.prepare(self.backward, waves)

    def with_room(self, work: Callable[[], T]) -> T:
        """What `work` returns, for which the graphs' memory is given up where there is no other."""
        try:
            return work()
        except torch.OutOfMemoryError:
            pass
        self.forget_graphs()
        return work()

    # Forward and backward -------------------------------------------------------------------------------------------

    def losses(self, slots: Sequence[Slot], source: TrialSource) -> dict[int, Tensor]:
        """Gradients of one batch of each slot, and its loss [] (the mean over the batch's texts) by slot."""
        return self.training.of(self.gradients, slots, self.make_room, partial(self.does_not_fit, source=source))

    def gradients(self, slots: Sequence[Slot]) -> dict[int, Tensor]:
        """Add the gradients of one batch of each slot and return the losses."""

        def tokens(slot: Slot) -> int:
            return int(self.corpus.lengths[slot.schedule.batch(slot.step, slot.trial.seed)].sum())

        with any_layout():
            return self.lanes(self.by_waves, slots, tokens)

    def by_waves(self, slots: Sequence[Slot]) -> dict[int, Tensor]:
        """The gradients and losses of some slots, pass by pass."""
        losses: dict[int, list[Tensor]] = {slot.index: [] for slot in slots}
        for wave in self.planned(slots):
            self.lanes.check()
            part = self.backward(wave) if self.graphs is None else self.graphs(self.backward, wave)
            for slot, loss in zip(wave.rows.slots, part.unbind(), strict=True):
                losses[slot].append(loss)
        return {slot: torch.stack(parts).sum() for slot, parts in losses.items()}

    def make_room(self, slots: Sequence[Slot], again: bool) -> Relief:
        """After a step of these slots that ran out of memory: without the graphs' memory they may fit, and a slot alone
        with its batch cut in two, while it can be."""
        for slot in slots:
            self.stack.grads[slot.index].zero_()
        if self.forget_graphs() and not again:
            return "freed"
        if len(slots) > 1:
            return "none"
        parts = self.parts(slots[0])
        if len(parts) == parts[0].whole:
            return "none"
        slots[0].fits = max(part.tokens for part in parts) // 2
        return "cut"

    def forget_graphs(self) -> bool:
        """Whether there were any."""
        held = self.graphs is not None and bool(self.graphs.known)
        if self.graphs is not None:
            self.graphs.drop()
        return held

    def does_not_fit(self, slot: Slot, reason: str, *, source: TrialSource) -> None:
        """End a trial that has no room even alone: pruned, so that the sampler learns to stay away."""
        self.end(slot, source, "pruned", f"out of memory, even alone: {reason}")

    @telling_full_memory()
    def backward(self, wave: Wave) -> Tensor:
        """Forward and backward of a pass: its part of each of its k slots' losses [k]."""
        weights = wave.weights
        with torch.enable_grad():
            logits = self.packed.logits(wave.rows, wave.masks)  # [k·n, C]
            per_text = self.task.row_loss(logits, wave.labels)  # [k·n]
            per_text.backward(weights)
        weighted = (per_text.detach() * weights).view(wave.rows.texts.real.shape)  # [k, n]
        return weighted.masked_fill_(wave.rows.texts.pads[:, :, 0], 0).sum(1)

    def planned(self, slots: Sequence[Slot]) -> list[Wave]:
        """The passes of the slots' next step; laid out ahead, if all went as foreseen."""
        plan, self.ahead = self.ahead, None
        key = _key(slots)
        return plan[1] if plan is not None and plan[0] == key else self.waves(slots)

    def waves(self, slots: Sequence[Slot]) -> list[Wave]:
        """One batch of each slot, in passes of at most `train_tokens` tokens."""
        parts = [part for slot in slots for part in self.parts(slot)]
        whole = sum(part.tokens for part in parts)
        passes = -(-whole // self.limits.train_tokens)
        enough = whole / passes  # passes of like size, for a last one of a few tokens would take as many launches
        waves: list[Wave] = []
        here: list[Part] = []
        tokens = 0
        for part in parts:
            full = tokens + part.tokens / 2 > enough or tokens + part.tokens > self.limits.train_tokens
            if here and (full or here[-1].slot is part.slot):
                waves.append(self.wave(here))
                here, tokens = [], 0
            here.append(part)
            tokens += part.tokens
        return [*waves, self.wave(here)]

    def parts(self, slot: Slot) -> list[Part]:
        """The slot's next batch; in parts where it is too long by itself.

        It is cut by its own texts' lengths alone, so that neighbours cannot change even its rounding.
        """
        batch = slot.schedule.batch(slot.step, slot.trial.seed)
        most = self.limits.slot_tokens if slot.fits is None else slot.fits
        parts, texts, tokens = [], 0, 0
        for some in _cut(batch, self.corpus.lengths[batch], most):
            size = int(self.corpus.lengths[some].sum())
            parts.append(Part(slot, len(batch), (texts, tokens), some, size))
            texts, tokens = texts + len(some), tokens + size
        return parts

    def wave(self, parts: Sequence[Part]) -> Wave:
        """Lay out some slots' texts. A text weighs one over its slot's whole batch."""
        keys = {part.slot.index: (part.slot.trial.seed, part.slot.step) for part in parts}
        spread, real = batch_of([len(part.texts) for part in parts])  # [k, n]
        whole = np.array([part.whole for part in parts])[:, None]
        texts = [part.texts for part in parts]
        more = {
            "labels": np.asarray(self.train.labels)[np.concatenate(texts)[spread.ravel()]],
            "whole": np.where(real, whole, 0).ravel(),
            **self.packed.current.drawn(keys),
        }
        skipped = {part.slot.index: part.before for part in parts}
        return Wave(self.packed.lay([part.slot.index for part in parts], texts, self.corpus, skipped, more), keys)

    # Evaluation -----------------------------------------------------------------------------------------------------

    def evaluate(self, slots: Sequence[Slot], source: TrialSource) -> list[Slot]:
        """Score the slots on the validation split; returns those that stay: a non-finite score fails its trial."""
        if not slots:
            return []

        found = self.evaluation.of(
            self.predicted, slots, self.make_more_room, partial(self.does_not_fit, source=source)
        )
        scored = []
        for slot in (slot for slot in slots if slot.index in found):
            logits = found[slot.index]
            scores: Scores = self.task.scores(logits, np.asarray(self.validation.labels))
            bad = [name for name, value in scores.items() if not math.isfinite(value)]
            if bad:
                self.end(slot, source, "failed", f"{', '.join(bad)} not finite at step {slot.step}")
                continue
            slot.evaluated_as(scores, logits)
            scored.append(slot)
        return scored

    def predicted(self, slots: Sequence[Slot]) -> dict[int, NDArray[np.float32]]:
        """Logits [n, C] of the validation split, by slot."""

        def work(some: Sequence[Slot]) -> dict[int, NDArray[np.float32]]:
            indices = [slot.index for slot in some]
            return dict(zip(indices, self.predict(indices, self.unseen), strict=True))

        return self.lanes(work, slots, lambda slot: 1)

    def make_more_room(self, slots: Sequence[Slot], again: bool, corpus: Corpus | None = None) -> Relief:
        """After an evaluation that ran out of memory: the graphs', or shorter passes of all."""
        if self.forget_graphs() and not again:
            return "freed"
        shorter = self.limits.eval_tokens // 2
        if shorter < int((corpus or self.unseen).lengths.max()):
            return "none"
        self.limits = replace(self.limits, eval_tokens=shorter)
        return "freed"

    def save(self, slot: Slot) -> None:
        with self.clock.at("checkpoints"):
            checkpoint.save(slot, self.stack)

    def decide(self, slots: Sequence[Slot], source: TrialSource) -> None:
        """Ask the source about all trials that were evaluated in this step, then let go of those that are over.

        Checkpoints come after its word: a process that dies before it finds all of them as they were before the
        evaluation, to be judged together again. Those that are let go of need none.
        """
        if not slots:
            return
        kept = source.report([Report(slot.trial, slot.evaluations[-1], slot.seconds) for slot in slots])
        for slot, keep in zip(slots, kept, strict=True):
            if keep or slot.step >= slot.schedule.steps:
                self.save(slot)
        for slot, keep in zip(slots, kept, strict=True):
            if slot.step >= slot.schedule.steps:
                self.end(slot, source, "complete", f"all {slot.schedule.steps} steps")
            elif not keep:
                self.end(slot, source, "pruned", f"pruned at step {slot.step} of {slot.schedule.steps}")

    def predict(self, slots: Sequence[int], corpus: Corpus) -> NDArray[np.float32]:
        """Logits [k, n, C] of a split's texts by each of the k slots, in fp32, in passes of `eval_tokens` at most."""
        fit = max(1, self.limits.eval_tokens // int(corpus.lengths.max()))  # slots with room for the longest text
        if len(slots) > fit:
            return np.concatenate([self.predict(slots[i : i + fit], corpus) for i in range(0, len(slots), fit)])
        order = np.argsort(corpus.lengths, kind="stable")  # neighbours of like length waste least in attention
        chunks = _cut(order, corpus.lengths[order] * len(slots), self.limits.eval_tokens)
        parts = [self.logits(slots, [chunk] * len(slots), corpus) for chunk in chunks]
        back = np.argsort(order, kind="stable")
        return torch.cat(parts, dim=1).cpu().numpy()[:, back]

    @telling_full_memory()
    @torch.no_grad()
    def logits(self, slots: Sequence[int], parts: Sequence[Places], corpus: Corpus) -> Tensor:
        """Logits [k, n, C] of some texts of a split, as many for each of the k slots."""
        self.lanes.check()
        logits = self.packed.logits(self.packed.lay(slots, parts, corpus), None)
        return logits.view(len(slots), -1, logits.shape[-1])[:, : len(parts[0])]

    def score(self, trial: Trial, adapter: Path, split: Examples) -> Scores:
        """Scores of a trial that has ended on another split, by its exported adapter. Needs a free slot."""
        slot = self.start(self.slots.index(None), trial)
        try:
            parts = self.stack.split(slot.index, self.stack.weights[slot.index], trial.params)
            self.method.read(adapter, parts, trial.params)
            corpus = self.packed.corpus(split.input_ids)
            found = self.evaluation.of(
                lambda some: {slot.index: self.predict([slot.index], corpus)[0]},
                [slot],
                partial(self.make_more_room, corpus=corpus),
                _raise,
            )
            logits, labels = found[slot.index], np.asarray(split.labels)
            scores = self.task.scores(logits, labels)
            if self.task.multi_label:  # by the validation rows' cuts: those of the test would be tuned on the test
                seen = self.predicted([slot])[slot.index]
                cuts = tuned(seen, np.asarray(self.validation.labels))
                scores["macro_f1_tuned"] = self.task.macro_f1(labels, self.task.predictions(logits, cuts))
            return scores
        finally:
            self.vacate(slot)

    def parameters(self, params: TrainConfig) -> int:
        """How many numbers a trial with these hyperparameters trains."""
        adapted = frozenset(self.method.targets(params)) | frozenset(self.packed.heads)
        row = self.stack.weights[0]
        return sum(
            place.of(row)[place.layer.shape_of(place.name, params)].numel()
            for place in self.stack.places
            if place.layer.name in adapted
        )

    # Slots ----------------------------------------------------------------------------------------------------------

    def occupied(self) -> list[Slot]:
        return [slot for slot in self.slots if slot is not None]

    def status(self, index: int) -> SlotStatus:
        slot = self.slots[index]
        return SlotStatus(index) if slot is None else slot.status()

    def release(self) -> None:
        """Give the base back as it was, what graphs hold, and threads; and forget what was compiled for this pack, for
        a process compiles so many variants of one code, and then no more."""
        self.lanes.close()
        self.forget_graphs()
        self.packed.release()
        if self.device.type == "cuda":
            torch.compiler.reset()

    def vacate(self, slot: Slot) -> None:
        """Clear the slot for the next trial."""
        self.slots[slot.index] = None
        self.stack.clear(slot.index)

    def end(self, slot: Slot, source: TrialSource, state: str, reason: str) -> None:
        """Free the slot and tell the source how its trial ended."""
        self.vacate(slot)
        best = slot.best
        result = Result(
            state=state,  # type: ignore[arg-type]
            reason=reason,
            step=slot.step,
            seconds=slot.seconds,
            best=best,
            weights=slot.saved / checkpoint.BEST if state == "complete" and slot.saved is not None else None,
            logits=slot.best_logits,
            parameters=slot.parameters,
        )
        source.finish(slot.trial, result)


def _cut(texts: Places, tokens: Places, most: int) -> Iterator[Places]:
    """The texts in parts of at most so many tokens (a longer text goes alone), in their order."""
    start, total = 0, 0
    for i, size in enumerate(tokens.tolist()):
        if i > start and total + size > most:
            yield texts[start:i]
            start, total = i, 0
        total += size
    yield texts[start:]


def _raise(slot: Slot, reason: str) -> None:
    raise torch.OutOfMemoryError(reason)


def _key(slots: Sequence[Slot]) -> tuple[tuple[int, int, int], ...]:
    """What the next step of these slots is made of."""
    return tuple((slot.index, slot.trial.number, slot.step) for slot in slots)

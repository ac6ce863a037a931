"""The pack: K trials on one frozen base, in one process, a step at a time."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peftsweep.config import TrainConfig
from peftsweep.engine import checkpoint
from peftsweep.engine.clock import Clock, TimedSource
from peftsweep.engine.memory import in_halves
from peftsweep.engine.packing import Packed
from peftsweep.engine.rows import Rows, Text, lay
from peftsweep.engine.schedule import Schedule
from peftsweep.engine.slot import Slot, make_optimizer
from peftsweep.engine.stack import Stack
from peftsweep.engine.trial import Report, Result, Scores, SlotStatus, Trial, TrialSource
from peftsweep.methods import Method
from peftsweep.task import Task


class Examples(Protocol):
    """A tokenised split: the texts' token ids, and labels float32 [n, C] or int64 [n]."""

    @property
    def input_ids(self) -> Sequence[Text]: ...

    @property
    def labels(self) -> NDArray[np.generic]: ...


@dataclass(frozen=True)
class Limits:
    """How much goes through the base at once: tokens of one slot in training, of all slots in evaluation."""

    train_tokens: int = 16384
    eval_tokens: int = 8192


class Pack:
    """K slots over one frozen base.

    Args:
        model: a `transformers` model for sequence classification, frozen; its layers are wrapped in place.
        method: the adapters to train on it.
        candidates: hyperparameters that bound what trials may ask for (widest rank, every choice of layers).
        slots: K.
        uniform: fill the slots' stretches up to one length, so that adapters run as batched products; by default on
            a GPU alone, where one launch for all slots is worth more than the tokens it wastes.

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
        uniform: bool | None = None,
        limits: Limits = Limits(),
    ) -> None:
        self.task, self.method, self.train, self.validation, self.limits = task, method, train, validation, limits
        self.device = next(model.parameters()).device
        self.uniform = self.device.type == "cuda" if uniform is None else uniform
        samples = sorted(validation.input_ids[:64], key=len)
        self.packed = Packed(model, method, candidates, slots, samples[:: max(1, len(samples) // 3)])
        self.stack: Stack = self.packed.stack
        self.slots: list[Slot | None] = [None] * slots
        self.clock = Clock()

    # The loop -------------------------------------------------------------------------------------------------------

    def run(self, source: TrialSource) -> None:
        """Train the source's trials until it has no more, or says stop."""
        source = TimedSource(source, self.clock)
        while self.fill(source):
            began = time.perf_counter()
            with self.clock.at("training"):
                self.step(source)
            with self.clock.at("evaluation"):
                self.evaluate([slot for slot in self.occupied() if slot.due], source)
            seconds = time.perf_counter() - began
            running = self.occupied()
            for slot in running:
                slot.seconds += seconds / len(running)
            self.decide(source)
            if not source.stepped([self.status(i) for i in range(len(self.slots))], seconds):
                for slot in self.occupied():
                    self.save(slot)
                return

    def fill(self, source: TrialSource) -> bool:
        """Give each free slot a trial while there are any. False when all slots stay free."""
        while None in self.slots and (trial := source.next()) is not None:
            self.start(self.slots.index(None), trial)
        if any(slot.undecided for slot in self.occupied()):  # evaluated, but the process died before the decision
            self.decide(source)
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
            optimizer=make_optimizer(stack, index, trial.params),
            parameters=self.parameters(trial.params),
        )
        folder = checkpoint.newest(trial.folder)
        if folder is not None:
            checkpoint.restore(slot, stack, folder)
        self.slots[index] = slot
        return slot

    def step(self, source: TrialSource) -> None:
        """One optimizer step of every occupied slot."""
        slots = self.occupied()
        began = time.perf_counter()
        losses = self.losses(slots, source)
        slots = [slot for slot in slots if slot.index in losses]
        norms = self.stack.grads.norm(dim=1).tolist()  # [K]
        for slot in slots:
            loss, norm = losses[slot.index], norms[slot.index]
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient norm is {norm}"
                self.end(slot, source, "failed", f"{what} at step {slot.step + 1}")
                continue
            limit = slot.trial.params.max_grad_norm
            if 0 < limit < norm:
                self.stack.grads[slot.index].mul_(limit / (norm + 1e-6))
            slot.update(slot.schedule.learning_rate(slot.step))
            slot.count(loss)
        self.stack.grads.zero_()
        seconds = time.perf_counter() - began
        for slot in slots:
            rate = slot.trial.params.batch_size / seconds
            slot.rate = rate if slot.rate == 0 else 0.9 * slot.rate + 0.1 * rate

    # Forward and backward -------------------------------------------------------------------------------------------

    def losses(self, slots: Sequence[Slot], source: TrialSource) -> dict[int, float]:
        """Gradients of one batch of each slot, and its loss (the mean over the batch's rows) by slot."""
        picked = {slot.index: slot.schedule.batch(slot.step, slot.trial.seed) for slot in slots}

        def work(some: Sequence[Slot]) -> dict[int, float]:
            for slot in some:
                self.stack.grads[slot.index].zero_()  # of a try that ran out of memory
            return self.gradients(some, picked)

        return in_halves(work, slots, partial(self.does_not_fit, source=source))

    def does_not_fit(self, slot: Slot, reason: str, *, source: TrialSource) -> None:
        """End a trial that has no room even alone: pruned, so that the sampler learns to stay away."""
        self.end(slot, source, "pruned", f"out of memory, even alone: {reason}")

    def gradients(self, slots: Sequence[Slot], picked: dict[int, NDArray[np.int64]]) -> dict[int, float]:
        """Add the gradients of one batch of each slot (rows of the training split by slot) and return the losses."""
        waves = itertools.zip_longest(*(self.micro_batches(picked[slot.index]) for slot in slots))
        losses = {slot.index: torch.zeros((), device=self.device) for slot in slots}
        for number, wave in enumerate(waves):
            present = [(slot, part) for slot, part in zip(slots, wave, strict=True) if part is not None]
            rows = self.lay([slot.index for slot, _ in present], [part for _, part in present], self.train)
            keys = {slot.index: (slot.trial.seed, slot.step, number) for slot, _ in present}
            with torch.enable_grad():
                logits = self.packed.logits(rows, keys)  # [N, C]
                labels, weights = self.targets(rows, present, picked)
                per_row = self.task.row_loss(logits, labels)  # [N]
                per_row.backward(weights)  # type: ignore[no-untyped-call]
            weighted = torch.where(weights > 0, per_row.detach() * weights, 0.0)
            for slot, start, stop in rows.texts.stretches():
                losses[slot] += weighted[start:stop].sum()
        values = torch.stack(list(losses.values())).tolist()
        return dict(zip(losses, values, strict=True))

    def targets(
        self, rows: Rows, present: Sequence[tuple[Slot, NDArray[np.int64]]], picked: dict[int, NDArray[np.int64]]
    ) -> tuple[Tensor, Tensor]:
        """Labels of the N texts, and their weights [N]: one over the slot's whole batch; nought for filled-up texts."""
        order, weights = [], []
        for (slot, part), (start, stop) in zip(present, rows.texts.bounds, strict=True):
            order += [*part, *[part[-1]] * (stop - start - len(part))]
            weights += [1 / len(picked[slot.index])] * len(part) + [0.0] * (stop - start - len(part))
        labels = torch.from_numpy(np.asarray(self.train.labels)[np.array(order)])
        return labels.to(self.device), torch.tensor(weights, device=self.device)

    def micro_batches(self, batch: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """The batch in parts of at most `train_tokens` tokens (a longer text goes alone)."""
        sizes = np.cumsum([len(self.train.input_ids[i]) for i in batch])
        start, done = 0, 0
        for i, size in enumerate(sizes):
            if i > start and size - done > self.limits.train_tokens:
                yield batch[start:i]
                start, done = i, int(sizes[i - 1])
        yield batch[start:]

    def lay(self, slots: Sequence[int], parts: Sequence[NDArray[np.int64]], split: Examples) -> Rows:
        texts = [[split.input_ids[i] for i in part] for part in parts]
        return lay(slots, texts, self.packed.pooling, self.device, self.uniform)

    # Evaluation -----------------------------------------------------------------------------------------------------

    def evaluate(self, slots: Sequence[Slot], source: TrialSource) -> None:
        """Score the slots on the validation split and checkpoint them; a non-finite score fails that trial alone."""
        if not slots:
            return

        def work(some: Sequence[Slot]) -> dict[int, NDArray[np.float32]]:
            indices = [slot.index for slot in some]
            return dict(zip(indices, self.predict(indices, self.validation), strict=True))

        found = in_halves(work, slots, partial(self.does_not_fit, source=source))
        for slot in (slot for slot in slots if slot.index in found):
            logits = found[slot.index]
            scores: Scores = self.task.scores(logits, np.asarray(self.validation.labels))
            bad = [name for name, value in scores.items() if not math.isfinite(value)]
            if bad:
                self.end(slot, source, "failed", f"{', '.join(bad)} not finite at step {slot.step}")
                continue
            slot.evaluated_as(scores, logits)
            self.save(slot)

    def save(self, slot: Slot) -> None:
        with self.clock.at("checkpoints"):
            checkpoint.save(slot, self.stack)

    def decide(self, source: TrialSource) -> None:
        """Ask the source about all trials that were evaluated in this step, then let go of those that are over."""
        waiting = [slot for slot in self.occupied() if slot.undecided]
        if not waiting:
            return
        kept = source.report([Report(slot.trial, slot.evaluations[-1]) for slot in waiting])
        for slot, keep in zip(waiting, kept, strict=True):
            slot.undecided = False
            if slot.step >= slot.schedule.steps:
                self.end(slot, source, "complete", f"all {slot.schedule.steps} steps")
            elif not keep:
                self.end(slot, source, "pruned", f"pruned at step {slot.step} of {slot.schedule.steps}")

    @torch.no_grad()
    def predict(self, slots: Sequence[int], split: Examples) -> list[NDArray[np.float32]]:
        """Logits [n, C] of a split for each of the slots, in fp32."""
        lengths = np.array([len(text) for text in split.input_ids])
        parts: dict[int, list[NDArray[np.float32]]] = {slot: [] for slot in slots}
        order = np.argsort(lengths, kind="stable")  # neighbours of like length waste least in attention
        for chunk in self._chunks(order, lengths * len(slots)):
            rows = self.lay(slots, [chunk] * len(slots), split)
            logits = self.packed.logits(rows, None).float().cpu().numpy()  # [N, C]
            for slot, start, stop in rows.texts.stretches():
                parts[slot].append(logits[start:stop])
        back = np.argsort(order, kind="stable")
        return [np.concatenate(parts[slot])[back] for slot in slots]

    def score(self, trial: Trial, adapter: Path, split: Examples) -> Scores:
        """Scores of a trial that has ended on another split, by its exported adapter. Needs a free slot."""
        slot = self.start(self.slots.index(None), trial)
        try:
            parts = self.stack.split(slot.index, self.stack.weights[slot.index], trial.params)
            self.method.read(adapter, parts, trial.params)
            (logits,) = self.predict([slot.index], split)
            return self.task.scores(logits, np.asarray(split.labels))
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

    def _chunks(self, order: NDArray[np.int64], cost: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        start, total = 0, 0
        for i, text in enumerate(order):
            if i > start and total + cost[text] > self.limits.eval_tokens:
                yield order[start:i]
                start, total = i, 0
            total += cost[text]
        yield order[start:]

    # Slots ----------------------------------------------------------------------------------------------------------

    def occupied(self) -> list[Slot]:
        return [slot for slot in self.slots if slot is not None]

    def status(self, index: int) -> SlotStatus:
        slot = self.slots[index]
        return SlotStatus(index) if slot is None else slot.status()

    def release(self) -> None:
        """Give the base back as it was."""
        self.packed.release()

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
            weights=slot.saved / checkpoint.BEST if best is not None and slot.saved is not None else None,
            logits=slot.best_logits,
            parameters=slot.parameters,
        )
        source.finish(slot.trial, result)

"""How do slots go through the base? In passes for gradients or logits, as many at once as fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peftsweep.engine import optimizer
from peftsweep.engine.batching import Batcher, MicroBatch, StepKey, split_by_tokens, step_key
from peftsweep.engine.corpus import Corpus, Indices
from peftsweep.engine.cpu_workers import CpuWorkers
from peftsweep.engine.cuda_graphs import CudaGraphs
from peftsweep.engine.limits import Limits, Say
from peftsweep.engine.oom import BackOff, RoomMade, Unfit, translate_oom
from peftsweep.engine.optimizer import SlotUpdate
from peftsweep.engine.packed_model import PackedModel
from peftsweep.engine.slot import Slot
from peftsweep.engine.slot_weights import any_layout
from peftsweep.task import Task

T = TypeVar("T")


class Runner:
    """Runs the packed model within the memory there is.

    Args:
        limits: how many tokens go through the base at once. Evaluation takes fewer once it has run out of memory.
        say: called with notes on what does not fit.

    Attributes:
        passes: number of passes begun. While an evaluation takes long, this tells that it goes on.
    """

    def __init__(self, packed: PackedModel, task: Task, batcher: Batcher, limits: Limits, say: Say) -> None:
        self.packed, self.task, self.batcher, self.limits = packed, task, batcher, limits
        slots, self.device = len(packed.stack.weights), packed.device
        self.training, self.evaluation = BackOff(slots, "step", say), BackOff(slots, "evaluation", say)
        self.graphs = CudaGraphs(say) if packed.attention != "padded" else None
        self.cpu_workers = CpuWorkers(slots if self.device.type == "cpu" and not packed.keeps_state else 1)
        if (workers := self.cpu_workers.count) > 1:  # they run that many passes at once
            shares = {"train_tokens": limits.train_tokens // workers, "eval_tokens": limits.eval_tokens // workers}
            self.limits = replace(limits, **shares)
        self.passes = 0
        self.prefetches = self.device.type == "cuda"
        self.prefetched: tuple[StepKey, list[MicroBatch]] | None = None

    # Training -------------------------------------------------------------------------------------------------------

    def forward_backward(self, slots: Sequence[Slot]) -> tuple[dict[int, Tensor], list[Unfit]]:
        """Accumulate the gradients of the next batch of each slot.

        Returns:
            Each slot's loss [], the mean over its batch's texts, by slot; and the slots that do not fit into memory.
        """
        return self.training.run(self.accumulate_gradients, slots, self.make_room)

    def accumulate_gradients(self, slots: Sequence[Slot]) -> dict[int, Tensor]:
        """The same for slots that fit into memory together; returns the losses [] by slot."""
        with any_layout():
            return self.cpu_workers(self._losses, slots, self.batcher.tokens)

    def _losses(self, slots: Sequence[Slot]) -> dict[int, Tensor]:
        losses: dict[int, list[Tensor]] = {slot.index: [] for slot in slots}
        for batch in self.next_batches(slots):
            self.begin_pass()
            part = self.backward(batch) if self.graphs is None else self.graphs(self.backward, batch)
            for slot, loss in zip(batch.rows.slots, part.unbind(), strict=True):
                losses[slot].append(loss)
        return {slot: parts[0] if len(parts) == 1 else torch.stack(parts).sum() for slot, parts in losses.items()}

    def update(self, slots: Sequence[Slot]) -> Tensor:
        """Take the optimizer's step with the slots' gradients; returns the norms of all gradients [K]."""
        updates = [SlotUpdate(slot.index, slot.step, slot.learning_rate, slot.trial.params) for slot in slots]
        norms = self.with_room(lambda: optimizer.step(self.packed.stack, updates))
        for slot in slots:
            slot.step += 1
        return norms

    @translate_oom()
    def backward(self, batch: MicroBatch) -> Tensor:
        """Forward and backward of a micro-batch; returns its share of the losses of its k slots [k]."""
        weights = batch.weights
        with torch.enable_grad():
            logits = self.packed.logits(batch.rows, batch.masks)  # [k·n, C]
            per_text = self.task.row_loss(logits, batch.labels)  # [k·n]
            per_text.backward(weights)
        weighted = (per_text.detach() * weights).view(batch.rows.texts.real.shape)  # [k, n]
        return weighted.masked_fill_(batch.rows.texts.pads[:, :, 0], 0).sum(1)

    def next_batches(self, slots: Sequence[Slot]) -> list[MicroBatch]:
        """The micro-batches of the slots' next step: the prefetched ones if they are still the right ones."""
        ready, self.prefetched = self.prefetched, None
        if ready is not None and ready[0] == step_key(slots):
            return ready[1]
        return self.batcher.micro_batches(slots, self.limits)

    def prefetch(self, slots: Sequence[Slot]) -> None:
        """Lay out these slots' next step, and capture its new graphs, while the GPU still works on this one. If memory
        is full, the step itself does so."""
        self.prefetched = None
        slots = slots[: self.training.slots]
        if not (self.prefetches and slots):
            return
        with suppress(torch.OutOfMemoryError), any_layout():
            batches = self.batcher.micro_batches(slots, self.limits)
            self.prefetched = (step_key(slots), batches)
            if self.graphs is not None:
                self.graphs.prepare(self.backward, batches)

    def make_room(self, slots: Sequence[Slot], again: bool) -> RoomMade:
        """After a step of these slots ran out of memory: free the graphs' memory, or split the batch of a single slot
        in two as long as it has more than one text."""
        for slot in slots:
            self.packed.stack.grads[slot.index].zero_()
        if self.drop_graphs() and not again:
            return "freed"
        if len(slots) > 1:
            return "none"
        chunks = self.batcher.chunks(slots[0], self.limits)
        if len(chunks) == chunks[0].batch_size:
            return "none"
        slots[0].max_tokens = max(chunk.tokens for chunk in chunks) // 2
        return "shortened"

    # Evaluation -----------------------------------------------------------------------------------------------------

    def predict(self, slots: Sequence[Slot], corpus: Corpus) -> tuple[dict[int, NDArray[np.float32]], list[Unfit]]:
        """Logits [n, C] of a split's texts by slot, in fp32; and the slots that do not fit into memory."""

        def work(some: Sequence[Slot]) -> dict[int, NDArray[np.float32]]:
            indices = [slot.index for slot in some]
            return dict(zip(indices, self.logits_of(indices, corpus), strict=True))

        def side_by_side(some: Sequence[Slot]) -> dict[int, NDArray[np.float32]]:
            return self.cpu_workers(work, some, lambda slot: 1)

        return self.evaluation.run(side_by_side, slots, partial(self.make_more_room, corpus=corpus))

    def logits_of(self, slots: Sequence[int], corpus: Corpus) -> NDArray[np.float32]:
        """Logits [k, n, C] of a split's texts by each of the k slots, in fp32, in passes of at most `eval_tokens`."""
        fit = max(1, self.limits.eval_tokens // int(corpus.lengths.max()))  # slots for which the longest text fits
        if len(slots) > fit:
            return np.concatenate([self.logits_of(slots[i : i + fit], corpus) for i in range(0, len(slots), fit)])
        order = np.argsort(corpus.lengths, kind="stable")  # texts of like length waste least in attention
        chunks = split_by_tokens(order, corpus.lengths[order] * len(slots), self.limits.eval_tokens)
        parts = [self.logits(slots, [chunk] * len(slots), corpus) for chunk in chunks]
        back = np.argsort(order, kind="stable")
        return torch.cat(parts, dim=1).cpu().numpy()[:, back]

    @translate_oom()
    @torch.no_grad()
    def logits(self, slots: Sequence[int], texts: Sequence[Indices], corpus: Corpus) -> Tensor:
        """Logits [k, n, C] of some texts of a split, equally many for each of the k slots."""
        self.begin_pass()
        logits = self.packed.logits(self.packed.pack_texts(slots, texts, corpus), None)
        return logits.view(len(slots), -1, logits.shape[-1])[:, : len(texts[0])]

    def make_more_room(self, slots: Sequence[Slot], again: bool, corpus: Corpus) -> RoomMade:
        """After an evaluation ran out of memory: free the graphs' memory, or shorten the passes of all slots."""
        if self.drop_graphs() and not again:
            return "freed"
        shorter = self.limits.eval_tokens // 2
        if shorter < int(corpus.lengths.max()):
            return "none"
        self.limits = replace(self.limits, eval_tokens=shorter)
        return "freed"

    def begin_pass(self) -> None:
        """
        Raises:
            AbandonedError: nobody waits for the results any more.
        """
        self.cpu_workers.check()
        self.passes += 1

    # Memory ---------------------------------------------------------------------------------------------------------

    def with_room(self, work: Callable[[], T]) -> T:
        """Run `work`; if memory is full, free the graphs and run it again."""
        try:
            return work()
        except torch.OutOfMemoryError:
            pass
        self.drop_graphs()
        return work()

    def drop_graphs(self) -> bool:
        """Free the graphs' memory; returns whether there were any."""
        held = self.graphs is not None and bool(self.graphs.known)
        if self.graphs is not None:
            self.graphs.drop()
        return held

    def close(self) -> None:
        self.cpu_workers.close()
        self.drop_graphs()

"""Which texts go through the base together: one batch of each slot, cut into micro-batches that memory holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from peftsweep.engine.corpus import Corpus, Indices
from peftsweep.engine.limits import Limits
from peftsweep.engine.packed_model import PackedModel
from peftsweep.engine.slot import Slot
from peftsweep.engine.text_packing import batch_of
from peftsweep.layers import Masks
from peftsweep.layers.packed_batch import PackedBatch


@dataclass(frozen=True)
class SlotChunk:
    """Those texts of a slot's batch that go through the base together: all of them, where they fit."""

    slot: Slot
    whole: int  # texts of the batch
    before: tuple[int, int]  # texts and tokens of the batch's earlier chunks
    texts: NDArray[np.int64]  # rows of the training split
    tokens: int  # of these texts


@dataclass(frozen=True)
class MicroBatch:
    """Some texts of k slots with their labels and weights, and the keys of the slots' dropout.

    All its tensors lie in the rows' buffer (except what attention over padded batches takes), so that the same pass can
    read them from another buffer.
    """

    rows: PackedBatch
    keys: Mapping[int, tuple[int, int]]

    @property
    def labels(self) -> Tensor:
        """[k·n, C] float32, or [k·n] int64."""
        labels = self.rows.more["labels"]
        return labels if labels.is_floating_point() else labels.long()

    @property
    def weights(self) -> Tensor:
        """[k·n] float32: one over the slot's whole batch; zero where there is no text."""
        whole = self.rows.more["whole"]
        return (whole > 0) / whole.clamp(min=1)

    @property
    def masks(self) -> Masks:
        return Masks(self.keys, self.rows.more["keep"], self.rows.more["seeds"])

    @property
    def shape(self) -> Any:
        """Equal for micro-batches that differ in their numbers only."""
        return self.rows.staging.layout, self.rows.longest

    @property
    def size(self) -> int:
        """Tokens, fillers included."""
        return self.rows.input_ids.shape[1]

    def over(self, buffer: Tensor) -> MicroBatch:
        """The same micro-batch, read from another buffer."""
        return replace(self, rows=self.rows.over(buffer))


StepKey = tuple[tuple[int, int, int], ...]


def step_key(slots: Sequence[Slot]) -> StepKey:
    """What the next step of some slots is made of: index, trial and step of each."""
    return tuple((slot.index, slot.trial.number, slot.step) for slot in slots)


@dataclass
class Batcher:
    """Makes micro-batches of the training split.

    Attributes:
        labels: of the split, float32 [n, C] or int64 [n].
    """

    packed: PackedModel
    corpus: Corpus
    labels: NDArray[np.generic]

    def micro_batches(self, slots: Sequence[Slot], limits: Limits) -> list[MicroBatch]:
        """The next batch of each slot, in micro-batches of at most `train_tokens` tokens."""
        chunks = [chunk for slot in slots for chunk in self.chunks(slot, limits)]
        whole = sum(chunk.tokens for chunk in chunks)
        passes = -(-whole // limits.train_tokens)
        enough = whole / passes  # passes of like size, for a last one of a few tokens would take as many launches
        batches: list[MicroBatch] = []
        here: list[SlotChunk] = []
        tokens = 0
        for chunk in chunks:
            full = tokens + chunk.tokens / 2 > enough or tokens + chunk.tokens > limits.train_tokens
            if here and (full or here[-1].slot is chunk.slot):
                batches.append(self.micro_batch(here))
                here, tokens = [], 0
            here.append(chunk)
            tokens += chunk.tokens
        return [*batches, self.micro_batch(here)]

    def chunks(self, slot: Slot, limits: Limits) -> list[SlotChunk]:
        """The slot's next batch; in several chunks where it is too long by itself.

        It is cut by its own texts' lengths only, so that neighbours cannot change even its rounding.
        """
        batch = slot.schedule.batch(slot.step, slot.trial.seed)
        most = limits.slot_tokens if slot.fits is None else slot.fits
        chunks, texts, tokens = [], 0, 0
        for some in cut(batch, self.corpus.lengths[batch], most):
            size = int(self.corpus.lengths[some].sum())
            chunks.append(SlotChunk(slot, len(batch), (texts, tokens), some, size))
            texts, tokens = texts + len(some), tokens + size
        return chunks

    def tokens(self, slot: Slot) -> int:
        """Tokens of the slot's next batch."""
        return int(self.corpus.lengths[slot.schedule.batch(slot.step, slot.trial.seed)].sum())

    def micro_batch(self, chunks: Sequence[SlotChunk]) -> MicroBatch:
        """Lay out some slots' texts. A text weighs one over its slot's whole batch."""
        keys = {chunk.slot.index: (chunk.slot.trial.seed, chunk.slot.step) for chunk in chunks}
        spread, real = batch_of([len(chunk.texts) for chunk in chunks])  # [k, n]
        whole = np.array([chunk.whole for chunk in chunks])[:, None]
        texts = [chunk.texts for chunk in chunks]
        more = {
            "labels": self.labels[np.concatenate(texts)[spread.ravel()]],
            "whole": np.where(real, whole, 0).ravel(),
            **self.packed.context.dropout_arrays(keys),
        }
        skipped = {chunk.slot.index: chunk.before for chunk in chunks}
        slots = [chunk.slot.index for chunk in chunks]
        return MicroBatch(self.packed.pack_texts(slots, texts, self.corpus, skipped, more), keys)


def cut(texts: Indices, tokens: Indices, most: int) -> Iterator[Indices]:
    """The texts in pieces of at most so many tokens (a longer text goes alone), in their order."""
    start, total = 0, 0
    for i, size in enumerate(tokens.tolist()):
        if i > start and total + size > most:
            yield texts[start:i]
            start, total = i, 0
        total += size
    yield texts[start:]

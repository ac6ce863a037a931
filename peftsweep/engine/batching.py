"""Which texts go through the base together? One batch of each slot, split into micro-batches that fit into memory."""

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
    """The texts of a slot's batch that go through the base together: all of them if they fit."""

    slot: Slot
    batch_size: int  # texts of the whole batch
    skipped: tuple[int, int]  # texts and tokens in the batch's earlier chunks
    texts: NDArray[np.int64]  # rows of the training split
    tokens: int  # of these texts


@dataclass(frozen=True)
class MicroBatch:
    """Some texts of k slots with their labels and weights, and the keys of the slots' dropout masks.

    All its tensors are stored in one buffer (except what attention over padded batches needs), so that a captured pass
    can read another micro-batch of the same shape.
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
        """[k·n] float32: one over the size of the slot's batch; zero where there is no text."""
        sizes = self.rows.more["batch_size"]
        return (sizes > 0) / sizes.clamp(min=1)

    @property
    def masks(self) -> Masks:
        return Masks(self.keys, self.rows.more["keep"], self.rows.more["seeds"])

    @property
    def shape(self) -> Any:
        """Equal for micro-batches that differ only in their values."""
        return self.rows.staging.layout, self.rows.longest

    @property
    def size(self) -> int:
        """Tokens, padding included."""
        return self.rows.input_ids.shape[1]

    def over(self, buffer: Tensor) -> MicroBatch:
        """The same micro-batch as views of another buffer."""
        return replace(self, rows=self.rows.over(buffer))


StepKey = tuple[tuple[int, int, int], ...]


def step_key(slots: Sequence[Slot]) -> StepKey:
    """What decides the next step of some slots: the index, trial and step of each."""
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
        """Split the next batch of each slot into micro-batches of at most `train_tokens` tokens."""
        chunks = [chunk for slot in slots for chunk in self.chunks(slot, limits)]
        total = sum(chunk.tokens for chunk in chunks)
        passes = -(-total // limits.train_tokens)
        enough = total / passes  # passes of like size: a last pass of a few tokens would need as many launches
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
        """The slot's next batch, in several chunks if it is too long for one pass.

        Only the lengths of its own texts decide where it is split, so neighbours cannot change even its rounding.
        """
        batch = slot.schedule.batch(slot.step, slot.trial.seed)
        most = limits.slot_tokens if slot.max_tokens is None else slot.max_tokens
        chunks, texts, tokens = [], 0, 0
        for some in split_by_tokens(batch, self.corpus.lengths[batch], most):
            size = int(self.corpus.lengths[some].sum())
            chunks.append(SlotChunk(slot, len(batch), (texts, tokens), some, size))
            texts, tokens = texts + len(some), tokens + size
        return chunks

    def tokens(self, slot: Slot) -> int:
        """Tokens of the slot's next batch."""
        return int(self.corpus.lengths[slot.schedule.batch(slot.step, slot.trial.seed)].sum())

    def micro_batch(self, chunks: Sequence[SlotChunk]) -> MicroBatch:
        """Lay out some slots' texts. The weight of a text is one over the size of its slot's batch."""
        keys = {chunk.slot.index: (chunk.slot.trial.seed, chunk.slot.step) for chunk in chunks}
        spread, real = batch_of([len(chunk.texts) for chunk in chunks])  # [k, n]
        sizes = np.array([chunk.batch_size for chunk in chunks])[:, None]
        texts = [chunk.texts for chunk in chunks]
        more = {
            "labels": self.labels[np.concatenate(texts)[spread.ravel()]],
            "batch_size": np.where(real, sizes, 0).ravel(),
            **self.packed.context.dropout_arrays(keys),
        }
        skipped = {chunk.slot.index: chunk.skipped for chunk in chunks}
        slots = [chunk.slot.index for chunk in chunks]
        return MicroBatch(self.packed.pack_texts(slots, texts, self.corpus, skipped, more), keys)


def split_by_tokens(texts: Indices, tokens: Indices, most: int) -> Iterator[Indices]:
    """Split texts, in their order, into pieces of at most `most` tokens. A longer text is a piece of its own."""
    start, total = 0, 0
    for i, size in enumerate(tokens.tolist()):
        if i > start and total + size > most:
            yield texts[start:i]
            start, total = i, 0
        total += size
    yield texts[start:]

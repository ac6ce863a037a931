"""Texts of all slots laid back to back in one row, without padding from one to the next.

The base sees one sequence `[1, T]` whose position ids restart at each text. Only attention needs to know where texts
begin (attention.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peftsweep.methods import Segments, Texts, moved, tiled

Text = NDArray[np.int64]
Indices = NDArray[np.int64]  # of texts in a split

BUCKET = 16  # tokens by which the padded lengths of attention's groups differ on a CPU
STRIDE = 16  # by which slots' rows differ on a CPU: oneDNN compiles for each length, malloc searches for each size
ALIGNED = 64  # words

# Attention over padded batches of like length, over tiles of short texts, or over texts of any length by themselves.
Attention = Literal["padded", "tiles", "varlen"]


@dataclass(frozen=True)
class Pooling:
    """Which token of a text the head reads, and where position ids start."""

    last: bool  # decoders: the last token that is not the pad token; encoders: the first
    pad_token_id: int
    first_position: int  # 0, or pad_token_id + 1 in the RoBERTa family

    def positions(self, text: Text) -> NDArray[np.int64]:
        """Position of each token. The RoBERTa family does not count pads that stand in a text."""
        if self.first_position == 0 or not (pads := text == self.pad_token_id).any():
            return np.arange(self.first_position, self.first_position + len(text))
        return np.where(pads, self.pad_token_id, self.pad_token_id + np.cumsum(~pads))

    def token(self, text: Text) -> int:
        """Index of the pooled token, as transformers' own heads choose it."""
        if not self.last:
            return 0
        real = np.flatnonzero(text != self.pad_token_id)
        return int(real[-1]) if len(real) else 0


class Corpus:
    """The n texts of a split as one array, and what fills rows up, so that a batch is a matter of indexing.

    Attributes:
        tokens: [all + STRIDE] ids of all texts, one after another, and of a filler, which is pads.
        positions: [all + STRIDE] of them.
        lengths, starts, pooled: [n] of each text; `pooled` is the place of the pooled token within it.
        filler: where that begins.
        longest: no text has more tokens; a power of two, of which kernels see few.
    """

    def __init__(self, texts: Sequence[Text], pooling: Pooling) -> None:
        self.pooling = pooling
        self.tokens = np.concatenate([*texts, np.full(STRIDE, pooling.pad_token_id)])
        within = pooling.first_position + np.arange(STRIDE)
        self.positions = np.concatenate([*(pooling.positions(text) for text in texts), within])
        self.filler = len(self.tokens) - STRIDE
        self.lengths = np.array([len(text) for text in texts])
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.pooled = np.array([pooling.token(text) for text in texts])
        self.longest = max(64, 1 << (int(self.lengths.max()) - 1).bit_length())


@dataclass(frozen=True)
class Group:
    """Some of the texts, n of them, fillers too, as attention sees them on a CPU: a batch padded to one length."""

    spread: Tensor  # [n, length] the row of each text's j-th token; its own last token where it is shorter
    real: Tensor  # [n, length] whether there is a j-th token
    pads: Tensor  # [pads] where there is none, of n·length places


@dataclass(frozen=True)
class Spans:
    """Where the text of each row begins, and the row after its end: [T] int32."""

    begins: Tensor
    stops: Tensor


class StagingBuffer:
    """Arrays that travel to a device in one copy and lie there in one buffer [words] int32, each aligned.

    Attributes:
        layout: name, type, shape and first word of each: equal for passes of equal shape.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        layout, at = [], 0
        narrow = {name: array.astype(np.int32) if array.dtype == np.int64 else array for name, array in arrays.items()}
        for name, array in narrow.items():
            layout.append((name, torch.from_numpy(array).dtype, array.shape, at))
            at += -(-array.size // ALIGNED) * ALIGNED
        self.layout = tuple(layout)
        self.words = np.zeros(at, np.int32)
        for (_, _, _, start), array in zip(self.layout, narrow.values(), strict=True):
            self.words[start : start + array.size] = array.ravel().view(np.int32)

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """The arrays by name, in a buffer of this layout."""
        storage = buffer.untyped_storage()  # no views to autograd and the compiler, which would follow the buffer
        return {
            name: torch.empty(0, dtype=dtype, device=buffer.device).set_(storage, start, shape, _strides(shape))
            for name, dtype, shape, start in self.layout
        }


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


@dataclass(frozen=True)
class PackedBatch:
    """One forward pass: texts of k slots in T rows, and as a batch [k, n] for the head."""

    input_ids: Tensor  # [1, T]
    position_ids: Tensor  # [1, T]
    pooled: Tensor  # [m ≥ texts] the row of each text's pooled token
    spread: Tensor  # [k·n] each text's place among the pooled; a slot's last one again where it has no more
    tokens: Segments  # the slots' stretches of the T rows
    reads: Segments  # the slots' stretches of the m pooled rows
    batch: Segments  # the slots' stretches of the k·n texts
    texts: Texts
    longest: int  # no text has more tokens
    spans: Spans | None  # for attention over tiles
    ends: Tensor | None  # [texts + 1] int32, for attention over texts of any length: where each begins, and the end
    groups: tuple[Group, ...]  # for attention over padded batches
    gather: Tensor | None  # [T] the place of each row in the groups' spreads, flattened one after another
    staging: StagingBuffer = field(repr=False)
    buffer: Tensor = field(repr=False)  # of the cargo
    more: dict[str, Tensor] = field(default_factory=dict)  # what the caller sent along

    @property
    def slots(self) -> tuple[int, ...]:
        return self.tokens.slots

    @classmethod
    def read(
        cls,
        staging: StagingBuffer,
        buffer: Tensor,
        segments: Mapping[str, Segments],
        longest: int,
        groups: tuple[Group, ...],
        gather: Tensor | None,
    ) -> PackedBatch:
        """What `pack_texts` staged, from a buffer of its layout; the segments `tokens`, `reads` and `batch`."""
        views = staging.views(buffer)
        stretches = {
            name: replace(each, edges=views.pop(f"{name}.edges", None), tiles=views.pop(f"{name}.tiles", None))
            for name, each in segments.items()
        }
        return cls(
            **stretches,
            input_ids=views.pop("input_ids")[None],
            position_ids=views.pop("position_ids")[None],
            pooled=views.pop("pooled"),
            spread=views.pop("spread"),
            texts=Texts(views.pop("slots"), views.pop("real")),
            longest=longest,
            spans=Spans(views.pop("begins"), views.pop("stops")) if "begins" in views else None,
            ends=views.pop("ends", None),
            groups=groups,
            gather=gather,
            staging=staging,
            buffer=buffer,
            more=views,
        )

    def over(self, buffer: Tensor) -> PackedBatch:
        """The same rows, read from another buffer."""
        segments = {"tokens": self.tokens, "reads": self.reads, "batch": self.batch}
        return PackedBatch.read(self.staging, buffer, segments, self.longest, self.groups, self.gather)


def batch_of(counts: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """So many texts of each slot, one slot's after another's, as a batch: which of them stands where [k, n], a slot's
    last again where it has no more; and whether it is no repetition. n is a power of two."""
    sizes = np.array(counts)[:, None]
    column = np.arange(1 << (int(sizes.max()) - 1).bit_length())  # few shapes, whatever the slots' batch sizes
    starts = np.cumsum(sizes)[:, None] - sizes
    return starts + np.minimum(column, sizes - 1), column < sizes


def pack_texts(
    slots: Sequence[int],
    parts: Sequence[Indices],
    corpus: Corpus,
    device: torch.device,
    attention: Attention,
    tiles_for: int = 0,
    skipped: Mapping[int, tuple[int, int]] | None = None,
    more: Mapping[str, NDArray[Any]] | None = None,
) -> PackedBatch:
    """Lay out some texts of a split for each slot.

    Rows are filled up to one of few lengths by texts that nobody reads, so that memory, compiled code and graphs serve
    again from one step to the next. For attention over tiles or over texts of any length, those come last and are of no
    slot; the pooled rows are filled up, too, by the last row. For padded batches on a CPU, where products are made of a
    slot's own rows, one comes behind the texts of each slot. For padded batches elsewhere nothing is filled up.

    Args:
        tiles_for: K where the adapters are kernels, which take segments in tiles.
        skipped: by slot, texts and tokens of its batch that went through before.
        more: arrays that travel along.
    """
    picked = np.concatenate(parts)  # [texts] of all slots
    text_stops = np.cumsum([len(part) for part in parts])  # [k]
    text_starts = text_stops - [len(part) for part in parts]
    sources, lengths, real = corpus.starts[picked], corpus.lengths[picked], np.ones(len(picked), bool)
    if device.type == "cpu" and attention == "padded":
        sources, lengths, real = _with_fillers(sources, lengths, text_starts, text_stops, corpus.filler)
    begins, total = np.cumsum(lengths) - lengths, int(lengths.sum())  # [texts, fillers too]
    within = np.arange(total) - np.repeat(begins, lengths)  # [tokens] place in its text
    places = np.repeat(sources, lengths) + within
    ids, positions = corpus.tokens[places], corpus.positions[places]  # [tokens]
    starts, stops = begins[real], (begins + lengths)[real]  # [texts] a text's first row, and the one after its last
    slot_starts = starts[text_starts]  # [k]
    spread, there = batch_of([len(part) for part in parts])  # [k, n]
    firsts = np.arange(len(slots)) * there.shape[1]  # [k]
    texts_before = {slot: texts for slot, (texts, _) in (skipped or {}).items()}
    tokens_before = {slot: tokens for slot, (_, tokens) in (skipped or {}).items()}
    segments = {
        "tokens": Segments(tuple(slots), _pairs(slot_starts, np.append(slot_starts[1:], total)), tokens_before),
        "reads": Segments(tuple(slots), _pairs(text_starts, text_stops), texts_before),
        "batch": Segments(tuple(slots), _pairs(firsts, firsts + there.shape[1]), texts_before),
    }
    arrays: dict[str, NDArray[Any]] = {
        "slots": np.array(slots),
        "real": there.astype(np.int32),
        "pooled": starts + corpus.pooled[picked],
        "spread": spread.ravel(),
    }
    groups: tuple[tuple[Group, ...], Tensor | None] = (), None
    if attention == "padded":
        groups = _padded(lengths, begins, total, device)
    else:
        fill, step = _bucket(total) - total, corpus.longest
        pooled = arrays["pooled"]
        arrays["pooled"] = np.concatenate([pooled, np.full(_bucket(len(pooled)) - len(pooled), total + fill - 1)])
        ids = np.concatenate([ids, np.full(fill, corpus.pooling.pad_token_id)])
        filler = corpus.pooling.first_position + np.arange(fill) % int(lengths.max())  # positions that the base has
        positions = np.concatenate([positions, filler])
        if attention == "varlen":  # always as many for so many rows: texts too many are empty
            fillers = np.minimum(total + step * np.arange(1, _most_fillers(total + fill, step) + 1), total + fill)
            arrays["ends"] = np.concatenate([[0], stops, fillers])
        else:
            arrays["begins"] = np.concatenate([np.repeat(begins, lengths), np.full(fill, total)])
            arrays["stops"] = np.concatenate([np.repeat(stops, lengths), np.full(fill, total + fill)])
    arrays |= {"input_ids": ids, "position_ids": positions}
    if tiles_for:
        for name, size in {"tokens": len(ids), "reads": len(arrays["pooled"]), "batch": there.size}.items():
            arrays[f"{name}.edges"], arrays[f"{name}.tiles"] = tiled(segments[name], tiles_for, size)
    staging = StagingBuffer(arrays | dict(more or {}))
    return PackedBatch.read(staging, moved(staging.words, device), segments, corpus.longest, *groups)


def _with_fillers(
    sources: Indices, lengths: Indices, text_starts: Indices, text_stops: Indices, filler: int
) -> tuple[Indices, Indices, NDArray[np.bool_]]:
    """Where in the corpus each text comes from and how long it is, with a filler behind each slot's that makes its rows
    a multiple of `STRIDE`, of no length where they are; and which of them are no fillers: [texts + k]."""
    fills = -np.add.reduceat(lengths, text_starts) % STRIDE  # [k]
    real = np.insert(np.ones(len(lengths), bool), text_stops, False)
    return np.insert(sources, text_stops, filler), np.insert(lengths, text_stops, fills), real


def _pairs(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(starts.tolist(), stops.tolist(), strict=True))


def _step(tokens: int) -> int:
    """By how much the lengths that rows may have are apart: about 3 %, and multiples of 64."""
    return max(64, 1 << max(0, tokens.bit_length() - 6))


def _bucket(tokens: int) -> int:
    """The next of the lengths that rows may have."""
    return -(-tokens // _step(tokens)) * _step(tokens)


def _most_fillers(rows: int, longest: int) -> int:
    """Texts of at most `longest` tokens that it takes to fill up to so many rows, whatever the rest."""
    return -(-_step(rows) // longest)


def _padded(lengths: Indices, starts: Indices, total: int, device: torch.device) -> tuple[tuple[Group, ...], Tensor]:
    """Attention's groups of texts of like length, cutting its padding for a few more calls; and `gather`."""
    # A text's padded length is a matter of its own length alone: then neighbours cannot change even its rounding.
    padded = -(-lengths // BUCKET) * BUCKET
    place, groups, places = np.empty(total, np.int64), [], 0
    for length in np.unique(padded[padded > 0]):  # a filler may be of no length
        some, column = np.flatnonzero(padded == length), np.arange(length)
        spread = starts[some, None] + np.minimum(column, lengths[some, None] - 1)
        real = column < lengths[some, None]
        place[spread[real]] = places + np.flatnonzero(real)
        places += real.size
        groups.append(Group(moved(spread, device), moved(real, device), moved(np.flatnonzero(~real), device)))
    return tuple(groups), moved(place, device)

"""How texts of several slots become one packed batch: the CPU's work before a pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peftsweep.engine.corpus import STRIDE, Corpus, Indices
from peftsweep.layers import Segments, tiled
from peftsweep.layers.packed_batch import Attention, Group, PackedBatch
from peftsweep.layers.staging_buffer import StagingBuffer, to_device

BUCKET = 16  # tokens: the step between the padded lengths of attention's groups on a CPU
LEAST_ROWS = 256  # the least step between lengths of the row: to capture a new one takes as long as ten short steps
LEAST_POOLED = 64


def batch_of(counts: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Arrange these numbers of texts, slot after slot, as a batch for the head: the index of the text at each place
    [k, n] (a slot's last text again where it has no more), and whether it is a text of its own. n is a power of two."""
    sizes = np.array(counts)[:, None]
    column = np.arange(1 << (int(sizes.max()) - 1).bit_length())  # few shapes, for any batch sizes
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
    """Pack some texts of a split for each slot.

    Filler texts that nobody reads extend the row to one of a few lengths, so that steps can reuse memory, compiled code
    and graphs. For attention over tiles or over texts of any length, the fillers come last and belong to no slot; the
    pooled rows are extended too, with the last row. For padded batches on a CPU, where each slot's rows are multiplied
    separately, one filler follows the texts of each slot. For padded batches elsewhere there are no fillers.

    Args:
        tiles_for: K, if the adapters run as kernels, which need segments in tiles; else 0.
        skipped: by slot, texts and tokens of its batch that earlier passes handled.
        more: the caller's own arrays, to be copied along.
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
        fill, step = _bucket(total, LEAST_ROWS) - total, corpus.longest
        pooled = arrays["pooled"]
        more_pooled = _bucket(len(pooled), LEAST_POOLED) - len(pooled)
        arrays["pooled"] = np.concatenate([pooled, np.full(more_pooled, total + fill - 1)])
        ids = np.concatenate([ids, np.full(fill, corpus.pooling.pad_token_id)])
        filler = corpus.pooling.first_position + np.arange(fill) % int(lengths.max())  # positions that the base knows
        positions = np.concatenate([positions, filler])
        if attention == "varlen":  # their number depends on that of the rows only: surplus texts are empty
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
    return PackedBatch.read(staging, to_device(staging.words, device), segments, corpus.longest, *groups)


def _with_fillers(
    sources: Indices, lengths: Indices, text_starts: Indices, text_stops: Indices, filler: int
) -> tuple[Indices, Indices, NDArray[np.bool_]]:
    """Sources and lengths of the texts, with a filler after those of each slot that makes the slot's rows a multiple of
    `STRIDE` (it may be empty); and which are real texts: [texts + k]."""
    fills = -np.add.reduceat(lengths, text_starts) % STRIDE  # [k]
    real = np.insert(np.ones(len(lengths), bool), text_stops, False)
    return np.insert(sources, text_stops, filler), np.insert(lengths, text_stops, fills), real


def _pairs(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(starts.tolist(), stops.tolist(), strict=True))


def _step(rows: int, least: int) -> int:
    """Step between allowed numbers of rows: about 3 %, in multiples of `least`."""
    return max(least, 1 << max(0, rows.bit_length() - 6))


def _bucket(rows: int, least: int) -> int:
    """The smallest allowed number of rows that holds so many."""
    step = _step(rows, least)
    return -(-rows // step) * step


def _most_fillers(rows: int, longest: int) -> int:
    """The most filler texts of at most `longest` tokens that so many rows can need."""
    return -(-_step(rows, LEAST_ROWS) // longest)


def _padded(lengths: Indices, starts: Indices, total: int, device: torch.device) -> tuple[tuple[Group, ...], Tensor]:
    """Attention's groups of texts of similar length (less padding, for a few more calls); and `gather`."""
    # A text's padded length depends on its own length only, so that neighbours cannot change even its rounding.
    padded = -(-lengths // BUCKET) * BUCKET
    place, groups, places = np.empty(total, np.int64), [], 0
    for length in np.unique(padded[padded > 0]):  # a filler may be empty
        some, column = np.flatnonzero(padded == length), np.arange(length)
        spread = starts[some, None] + np.minimum(column, lengths[some, None] - 1)
        real = column < lengths[some, None]
        place[spread[real]] = places + np.flatnonzero(real)
        places += real.size
        groups.append(
            Group(to_device(spread, device), to_device(real, device), to_device(np.flatnonzero(~real), device))
        )
    return tuple(groups), to_device(place, device)

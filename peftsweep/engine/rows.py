"""Texts of all slots laid back to back in one row, without padding between them.

The base sees one sequence `[1, T]` whose position ids restart at each text. Only attention needs to know where texts
begin (attention.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peftsweep.methods import Segments, Texts, moved

Text = NDArray[np.int64]
Places = NDArray[np.int64]  # of texts in a split

BUCKET = 16  # tokens by which the padded lengths of attention's groups differ on a CPU


@dataclass(frozen=True)
class Pooling:
    """Which token of a text the head reads, and where position ids start."""

    last: bool  # decoders: the last token that is not the pad token; encoders: the first
    pad_token_id: int
    first_position: int  # 0, or pad_token_id + 1 in the RoBERTa family

    def token(self, text: Text) -> int:
        """Index of the pooled token, as transformers' own heads choose it."""
        if not self.last:
            return 0
        real = np.flatnonzero(text != self.pad_token_id)
        return int(real[-1]) if len(real) else 0


class Corpus:
    """The n texts of a split as one array, so that a batch is a matter of indexing.

    Attributes:
        tokens: [all] ids of all texts, one after another.
        lengths, starts, pooled: [n] of each text; `pooled` is the place of the pooled token within it.
        longest: no text has more tokens; a power of two, of which kernels see few.
    """

    def __init__(self, texts: Sequence[Text], pooling: Pooling) -> None:
        self.pooling = pooling
        self.tokens = np.concatenate(texts)
        self.lengths = np.array([len(text) for text in texts])
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.pooled = np.array([pooling.token(text) for text in texts])
        self.longest = max(64, 1 << (int(self.lengths.max()) - 1).bit_length())


@dataclass(frozen=True)
class Group:
    """Some of the texts, n of them, as attention sees them on a CPU: a batch padded to one length."""

    spread: Tensor  # [n, length] the row of each text's j-th token; its own last token where it is shorter
    real: Tensor  # [n, length] whether there is a j-th token


@dataclass(frozen=True)
class Rows:
    """One forward pass: N texts of k slots, T rows in all."""

    input_ids: Tensor  # [1, T]
    position_ids: Tensor  # [1, T]
    pooled: Tensor  # [N] the row of each text's pooled token
    tokens: Segments  # the slots' stretches of the T rows
    pooled_texts: Segments  # the slots' stretches of the N texts
    texts: Texts  # the same as a batch
    ends: Tensor | None  # [texts + 1] int32, for attention over texts of any length: where each begins, and the end
    longest: int  # no text has more tokens
    groups: tuple[Group, ...]  # for attention over padded batches
    gather: Tensor | None  # [T] the place of each row in the groups' spreads, flattened one after another

    @property
    def slots(self) -> tuple[int, ...]:
        return self.tokens.slots


def lay(slots: Sequence[int], parts: Sequence[Places], corpus: Corpus, device: torch.device, varlen: bool) -> Rows:
    """Lay out some texts of a split for each slot.

    Args:
        varlen: attention takes texts of any length. Then the rows are filled up to one of few lengths, so that memory
            is used again from one step to the next, by some more texts, of no slot, that nobody reads.
    """
    picked = np.concatenate(parts)
    lengths = corpus.lengths[picked]
    stops = np.cumsum(lengths)
    starts, total = stops - lengths, int(stops[-1])
    within = np.arange(total) - np.repeat(starts, lengths)  # [tokens] place in its text
    ids = corpus.tokens[np.repeat(corpus.starts[picked], lengths) + within]
    counts = np.array([len(part) for part in parts])
    text_stops = np.cumsum(counts)
    text_starts = text_stops - counts
    tokens = Segments(tuple(slots), _pairs(starts[text_starts], stops[text_stops - 1]))
    column = np.arange(counts.max())
    spread = text_starts[:, None] + np.minimum(column, counts[:, None] - 1)  # [k, n]
    real = column < counts[:, None]
    gather = np.flatnonzero(real)  # texts stand in the batch in their own order
    pooled = starts + corpus.pooled[picked]
    attention: dict[str, Any] = {"ends": None, "groups": (), "gather": None}
    if not varlen:
        attention |= _padded(lengths, starts, total, device)
    else:
        fill = _bucket(total) - total
        ids = np.concatenate([ids, np.full(fill, corpus.pooling.pad_token_id)])
        within = np.concatenate([within, np.arange(fill) % corpus.longest])
        more = np.arange(
            total + corpus.longest, total + fill, corpus.longest
        )  # where the fillers after the first begin
        ends = np.concatenate([[0], stops, more, [total + fill] if fill else []])
        attention["ends"] = moved(ends.astype(np.int32), device)
    return Rows(
        input_ids=moved(ids, device)[None],
        position_ids=moved(within + corpus.pooling.first_position, device)[None],
        pooled=moved(pooled, device),
        tokens=tokens,
        pooled_texts=Segments(tuple(slots), _pairs(text_starts, text_stops)),
        texts=Texts(*(moved(array, device) for array in (np.array(slots), spread, real, gather))),
        longest=corpus.longest,
        **attention,
    )


def _pairs(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(starts.tolist(), stops.tolist(), strict=True))


def _bucket(tokens: int) -> int:
    """The next of the lengths that rows may have: about 3 % apart, and multiples of 64."""
    step = max(64, 1 << max(0, tokens.bit_length() - 6))
    return -(-tokens // step) * step


def _padded(lengths: Places, starts: Places, total: int, device: torch.device) -> dict[str, Any]:
    """Attention's groups: texts of like length. They cut its padding, at the price of a few more calls."""
    # A text's padded length is a matter of its own length alone: then neighbours cannot change even its rounding.
    padded = -(-lengths // BUCKET) * BUCKET
    place, groups, places = np.empty(total, np.int64), [], 0
    for length in np.unique(padded):
        some, column = np.flatnonzero(padded == length), np.arange(length)
        spread = starts[some, None] + np.minimum(column, lengths[some, None] - 1)
        real = column < lengths[some, None]
        place[spread[real]] = places + np.flatnonzero(real)
        places += real.size
        groups.append(Group(moved(spread, device), moved(real, device)))
    return {"groups": tuple(groups), "gather": moved(place, device)}

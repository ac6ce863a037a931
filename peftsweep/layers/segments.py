"""Which rows of an activation belong to which slot, and to which texts of the head's batch.

Activations are flat, `[rows, features]`, and each occupied slot has one range of rows, so slots never mix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

TILE = 64  # rows of one slot that one program of a GPU's kernel works on
FAR = 1 << 30  # beyond any row


@dataclass(frozen=True)
class Segments:
    """Which rows of a flat activation `[rows, d]` belong to which slot: `bounds[i][0] : bounds[i][1]` to `slots[i]`.

    Attributes:
        skipped: by slot, rows of its batch that earlier passes handled. Dropout depends on an element's place in the
            whole batch, so it does not matter where the batch is cut.
        edges: for kernels, the first row, the row after the last and the skipped rows of all K slots: [K, 3] int32,
            zero for a slot without rows.
        tiles: the rows in tiles of `TILE`: [n, 2] int32, each tile's slot and first row. n depends on the number of
            rows only; surplus tiles begin at `FAR`.
    """

    slots: tuple[int, ...]
    bounds: tuple[tuple[int, int], ...]
    skipped: Mapping[int, int] = field(default_factory=dict)
    edges: Tensor | None = None
    tiles: Tensor | None = None

    def by_slot(self) -> Iterable[tuple[int, int, int]]:
        """(slot, first row, row after the last)."""
        return ((slot, start, stop) for slot, (start, stop) in zip(self.slots, self.bounds, strict=True))


def tiled(segments: Segments, slots: int, rows: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The edges and tiles of the segments of an activation with this many rows, in a pack of K slots."""
    edges, tiles = np.zeros((slots, 3), np.int32), np.full((rows // TILE + slots, 2), (0, FAR), np.int32)
    at = 0
    for slot, start, stop in segments.by_slot():
        edges[slot] = start, stop, segments.skipped.get(slot, 0)
        firsts = np.arange(start, stop, TILE)
        tiles[at : at + len(firsts), 0], tiles[at : at + len(firsts), 1] = slot, firsts
        at += len(firsts)
    return edges, tiles


@dataclass(frozen=True)
class Texts:
    """The texts of k slots as a batch [k, n] for the head, where n is the largest number of texts of a slot."""

    slots: Tensor  # [k]
    real: Tensor  # [k, n] zero where there is no text

    @property
    def pads(self) -> Tensor:
        """[k, n, 1] where there is no text."""
        return (self.real == 0)[:, :, None]

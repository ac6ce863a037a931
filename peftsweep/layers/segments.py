"""Which rows of an activation belong to which slot, and to which texts of the head's batch.

Activations are flat, `[rows, features]`, and each occupied slot owns one stretch of rows. So no slot's numbers ever
meet another's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

TILE = 64  # rows of one slot that a GPU's kernels take at once
FAR = 1 << 30  # a row that there is not


@dataclass(frozen=True)
class Segments:
    """Which rows of a flat activation `[rows, d]` belong to which slot: `bounds[i][0] : bounds[i][1]` to `slots[i]`.

    Attributes:
        skipped: by slot, rows of its batch that went through before, where that goes in parts: dropout falls on an
            element by its place in the whole batch, so that it does not matter where that is cut.
        edges: the bounds as kernels take them, of all K slots by index, and what is skipped: [K, 3] int32, zero for a
            slot without rows.
        tiles: the same cut into tiles of `TILE` rows: [n, 2] int32, each tile's slot and first row. There are always
            as many for so many rows; those too many begin at `FAR`.
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
    """The edges and tiles of segments of an activation of so many rows, in a pack of so many slots."""
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
    """The texts of k slots as the head sees them: a batch [k, n], n being the most that a slot has."""

    slots: Tensor  # [k]
    real: Tensor  # [k, n] zero where a slot has no more texts

    @property
    def pads(self) -> Tensor:
        """[k, n, 1] where there is no text."""
        return (self.real == 0)[:, :, None]

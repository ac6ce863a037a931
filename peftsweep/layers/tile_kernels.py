"""Which rows a kernel's program works on, in Triton.

Each slot has a range of rows of an activation [T, d], cut into tiles of `TILE` rows (see `Segments`). So slots of different
batch sizes need no padding, and one launch serves them all.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def edges_of(slot, edges):  # type: ignore[no-untyped-def]
    """A slot's first row, the row after its last, and how many rows of its batch went through before."""
    return tl.load(edges + 3 * slot), tl.load(edges + 3 * slot + 1), tl.load(edges + 3 * slot + 2)


@triton.jit
def tile_of(tile, tiles, edges):  # type: ignore[no-untyped-def]
    """A tile's slot and first row, where the slot's batch would begin if nothing of it were skipped, and the row after
    its last. It has no rows where its first is not below the end."""
    slot, first = tl.load(tiles + 2 * tile).to(tl.int64), tl.load(tiles + 2 * tile + 1)
    begin, end, skipped = edges_of(slot, edges)
    return slot, first, begin - skipped, end

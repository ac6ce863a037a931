"""What packed layers need to know about the current forward pass: which rows belong to which slot, and the dropout."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peftsweep.layers.dropout import Masks
from peftsweep.layers.segments import Segments, Texts


class ForwardContext(threading.local):
    """The current forward pass of a thread, shared by all packed layers of a pack. Threads share only the arguments.

    Attributes:
        fused: whether the adapters run as a GPU's kernels.
        segments: of the tokens in the backbone, of the pooled tokens in its last block, of the texts in the head.
        edges, tiles: those of `segments`.
        texts: the head's batch.
        pooled: the hidden states that the head reads [k·n, 1, d].
        keys: see `Masks`; None without dropout (evaluation).
        keep, seeds: see `Masks`.
        dropouts: [K] the dropout of each slot's trial; one list for all threads.
        may_drop: whether any trial has dropout.
        drops: whether this pass may have dropout. (To know whether it does would take another compiled variant.)
    """

    def __init__(self, dropouts: list[float], device: torch.device, fused: bool, may_drop: bool = True) -> None:
        slots = len(dropouts)
        self.fused, self.may_drop, self.dropouts = fused, may_drop, dropouts
        self.segments = Segments((), ())
        self.edges = self.tiles = torch.empty(0)
        self.texts: Texts | None = None
        self.pooled = torch.empty(0)
        self.keys: Mapping[int, tuple[int, int]] | None = None
        self.no_dropout = Masks(
            {}, torch.ones(slots, device=device), torch.zeros(slots, dtype=torch.int32, device=device)
        )
        self.keep, self.seeds, self.drops = self.no_dropout.keep, self.no_dropout.seeds, False

    def begin(self, segments: Segments, texts: Texts, masks: Masks | None) -> None:
        """Prepare for the next pass. Without masks it has no dropout."""
        self.texts = texts
        self.keys, self.drops = None if masks is None else masks.keys, self.may_drop and masks is not None
        masks = masks or self.no_dropout
        self.keep, self.seeds = masks.keep, masks.seeds
        self.use_segments(segments)

    def use_segments(self, segments: Segments) -> None:
        """Set the segments of the next rows: tokens, then one row a text, then the head's batch."""
        self.segments = segments
        if segments.edges is not None and segments.tiles is not None:
            self.edges, self.tiles = segments.edges, segments.tiles

    def dropout_arrays(self, keys: Mapping[int, tuple[int, int]]) -> dict[str, NDArray[Any]]:
        """`keep` and `seeds` of `Masks` for these keys."""
        keep, seeds = np.ones(len(self.dropouts), np.float32), np.zeros(len(self.dropouts), np.uint32)
        for slot, key in keys.items():
            keep[slot] = 1 - self.dropouts[slot]
            seeds[slot] = np.random.SeedSequence(key).generate_state(1)[0]
        return {"keep": keep, "seeds": seeds.view(np.int32)}

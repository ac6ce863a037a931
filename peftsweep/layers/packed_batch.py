"""The input of one forward pass: the texts of all slots one after another in one row, without padding between them.

The base sees one sequence `[1, T]` whose position ids restart at each text. Only attention needs to know where texts
begin (attention.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from peftsweep.layers.segments import Segments, Texts
from peftsweep.layers.staging_buffer import StagingBuffer

# Attention over padded batches of similar length, over tiles of short texts, or over texts of any length.
Attention = Literal["padded", "tiles", "varlen"]


@dataclass(frozen=True)
class Group:
    """n of the texts (fillers included) as a padded batch for attention on a CPU."""

    spread: Tensor  # [n, length] the row of each text's j-th token; its own last token where it is shorter
    real: Tensor  # [n, length] whether there is a j-th token
    pads: Tensor  # [pads] where there is none, of n·length places


@dataclass(frozen=True)
class Spans:
    """Where the text of each row begins, and the row after its end: [T] int32."""

    begins: Tensor
    stops: Tensor


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
    buffer: Tensor = field(repr=False)  # what was staged, on the device
    more: dict[str, Tensor] = field(default_factory=dict)  # the caller's own arrays

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
        """The batch that `pack_texts` staged, read from a buffer with its layout."""
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
        """The same batch, read from another buffer."""
        segments = {"tokens": self.tokens, "reads": self.reads, "batch": self.batch}
        return PackedBatch.read(self.staging, buffer, segments, self.longest, self.groups, self.gather)

"""A split's texts as one array, and which token of each the head reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Text = NDArray[np.int64]
Indices = NDArray[np.int64]  # of texts in a split

# The step between row lengths of slots on a CPU, in tokens: oneDNN compiles for each length, malloc searches for each.
STRIDE = 16


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
        """Index of the pooled token, chosen as in transformers' heads."""
        if not self.last:
            return 0
        real = np.flatnonzero(text != self.pad_token_id)
        return int(real[-1]) if len(real) else 0


class Corpus:
    """The n texts of a split and a filler text as one array, so that a batch is made by indexing.

    Attributes:
        tokens: [all + STRIDE] ids of all texts, one after another, then a filler of pad tokens.
        positions: [all + STRIDE] their position ids.
        lengths, starts, pooled: [n] of each text; `pooled` is the index of the pooled token within it.
        filler: where the filler begins.
        longest: an upper bound of the lengths; a power of two, so that kernels see few values.
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

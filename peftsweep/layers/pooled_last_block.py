"""The last block of a transformer, for the tokens that a head reads.

Those are one of each text. What comes after attention in the last block, and all behind that block, is done token by
token: so it is done for these alone. The block's own code runs twice: for all rows, until attention has been called;
then for the pooled rows, where attention gives what it gave in the first run. (There queries, keys and values are made
once more, of one row a text, which nobody uses.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peftsweep.layers.attention import attended, giving, rows_under_way
from peftsweep.layers.context import ForwardContext
from peftsweep.layers.packed_batch import PackedBatch


class PooledForward:
    """Takes the place of a block's `forward`, and gives the pooled rows of a pass alone: [1, m, d] for [1, T, d]."""

    def __init__(self, block: nn.Module, current: ForwardContext) -> None:
        self.block, self.forward, self.current = block, block.forward, current
        self.own = vars(block).get("forward")  # most blocks have that of their class
        self.run: Callable[..., Any] = self._run
        self.reached = False  # whether it ever ran
        block.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.reached = True
        return self.run(*args, **kwargs)

    def compile(self) -> None:
        self.run = torch.compile(self._run)

    def remove(self) -> None:
        """Put the block's own back."""
        del self.block.forward, self.run
        if self.own is not None:
            self.block.forward = self.own

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        rows = rows_under_way()
        result = attended(lambda: self.forward(*args, **kwargs))  # [1, T, heads, d]
        self.current.turn_to(rows.reads)
        some_args, some_kwargs = _of_pooled(args, rows), _of_pooled(kwargs, rows)
        with giving(result[:, rows.pooled]):
            return self.forward(*some_args, **some_kwargs)


def _of_pooled(value: Any, rows: PackedBatch) -> Any:
    """What a block is given, of the pooled rows. That is the hidden states; and what goes with the positions, of which
    only queries and keys are made, that nobody uses here: it must be as long."""
    if isinstance(value, dict):
        return {name: _of_pooled(part, rows) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_of_pooled(part, rows) for part in value)
    if isinstance(value, Tensor) and value.shape[:2] == rows.position_ids.shape:
        return value[:, rows.pooled]
    return value

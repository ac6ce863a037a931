"""How a transformer's last block computes only the tokens that a head reads, one of each text.

Everything after attention in the last block, and everything behind that block, works token by token, so it is needed
for the pooled tokens only. The block's own code runs twice: first on all rows, up to attention, whose result is
captured; then on the pooled rows, with that result replayed. (The second run computes queries, keys and values once
more, of one row a text; nobody uses them.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peftsweep.layers.attention import capture_attention, current_batch, replay_attention
from peftsweep.layers.context import ForwardContext
from peftsweep.layers.packed_batch import PackedBatch


class PooledBlockForward:
    """Replaces a block's `forward` and returns the pooled rows of a pass: [1, m, d] for [1, T, d].

    Attributes:
        called: whether the block ever ran.
    """

    def __init__(self, block: nn.Module, context: ForwardContext) -> None:
        self.block, self.forward, self.context = block, block.forward, context
        self.own = vars(block).get("forward")  # most blocks use their class's
        self.run: Callable[..., Any] = self._run
        self.called = False
        block.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.called = True
        return self.run(*args, **kwargs)

    def compile(self) -> None:
        self.run = torch.compile(self._run)

    def remove(self) -> None:
        """Restore the block's own `forward`."""
        del self.block.forward, self.run
        if self.own is not None:
            self.block.forward = self.own

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        batch = current_batch()
        result = capture_attention(lambda: self.forward(*args, **kwargs))  # [1, T, heads, d]
        self.context.use_segments(batch.reads)
        pooled_args, pooled_kwargs = _pooled(args, batch), _pooled(kwargs, batch)
        with replay_attention(result[:, batch.pooled]):
            return self.forward(*pooled_args, **pooled_kwargs)


def _pooled(value: Any, batch: PackedBatch) -> Any:
    """The pooled rows of a block's arguments: of the hidden states, and of whatever else has one entry a token, such as
    rotary embeddings (nobody uses the queries and keys made with them here, but the lengths must agree)."""
    if isinstance(value, dict):
        return {name: _pooled(part, batch) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_pooled(part, batch) for part in value)
    if isinstance(value, Tensor) and value.shape[:2] == batch.position_ids.shape:
        return value[:, batch.pooled]
    return value

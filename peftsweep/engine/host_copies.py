"""How do a slot's weights leave the GPU? Through page-locked memory, a row at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from peftsweep.config import TrainConfig
from peftsweep.engine.slot_weights import SlotParameters


class HostCopies:
    """Copies rows of a pack's matrices to host memory.

    Ordinary memory would have to be locked page by page for every copy, which takes ten times as long.
    """

    def __init__(self, stack: SlotParameters) -> None:
        self.stack = stack
        self._staged: Tensor | None = None  # [P], page-locked

    def of(self, matrix: Tensor, slot: int, params: TrainConfig) -> dict[str, Tensor]:
        """A copy of a row, as views of the trial's own parts by `path:parameter`.

        Args:
            matrix: [K, P], laid out like the weights.
        """
        stop, width = self.stack.stop(slot), matrix.shape[1]
        used = matrix[slot, :stop]
        if used.device.type == "cuda":
            if self._staged is None:
                self._staged = torch.empty(width, dtype=used.dtype, pin_memory=True)
            used = self._staged[:stop].copy_(used)
        row = torch.empty(width, dtype=used.dtype)  # what lies behind is not touched, and takes no memory
        row[:stop] = used
        return self.stack.split(slot, row, params)

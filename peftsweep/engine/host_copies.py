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
        row = matrix[slot]
        if row.device.type == "cuda":
            if self._staged is None:
                self._staged = torch.empty(row.shape, dtype=row.dtype, pin_memory=True)
            row = self._staged.copy_(row)
        return self.stack.split(slot, row.clone(), params)

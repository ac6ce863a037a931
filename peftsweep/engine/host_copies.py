"""How do a slot's weights leave the GPU? Through page-locked memory, and without their padding."""

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

    def unpadded(self, matrix: Tensor, slot: int, params: TrainConfig) -> dict[str, Tensor]:
        """Copies of the trial's own part of a row, by `path:parameter`.

        Args:
            matrix: [K, P], laid out like the weights.
        """
        row = matrix[slot]
        if row.device.type == "cuda":
            if self._staged is None:
                self._staged = torch.empty(row.shape, dtype=row.dtype, pin_memory=True)
            row = self._staged.copy_(row)
        return {name: part.clone() for name, part in self.stack.split(slot, row, params).items()}

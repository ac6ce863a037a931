"""How a batch's arrays are copied to a device: all at once, and without waiting for the work that runs there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ALIGNED = 64  # words


def to_device(values: NDArray[Any], device: torch.device) -> Tensor:
    """Copy to the device. A GPU gets it from pinned memory; otherwise the copy would wait for all running work."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


class StagingBuffer:
    """Arrays that are copied to a device as one buffer [words] int32, each aligned.

    Attributes:
        layout: name, type, shape and first word of each: equal for passes of equal shape.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        layout, at = [], 0
        narrow = {name: array.astype(np.int32) if array.dtype == np.int64 else array for name, array in arrays.items()}
        for name, array in narrow.items():
            layout.append((name, torch.from_numpy(array).dtype, array.shape, at))
            at += -(-array.size // ALIGNED) * ALIGNED
        self.layout = tuple(layout)
        self.words = np.zeros(at, np.int32)
        for (_, _, _, start), array in zip(self.layout, narrow.values(), strict=True):
            self.words[start : start + array.size] = array.ravel().view(np.int32)

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """The arrays by name, in a buffer of this layout."""
        storage = buffer.untyped_storage()  # autograd and the compiler must not treat these as views of the buffer
        return {
            name: torch.empty(0, dtype=dtype, device=buffer.device).set_(storage, start, shape, _strides(shape))
            for name, dtype, shape, start in self.layout
        }


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))

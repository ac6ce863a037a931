"""How do losses leave the GPU? A copy is under way while the next step is launched, and is read after that, so that the
GPU does not wait for the processor between two steps."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from peftsweep.engine.slot import Slot


@dataclass(frozen=True)
class _Step:
    """
    Attributes:
        slots: those that took the step, and how many steps each had taken after it.
        values: [k + K] losses of these slots, and norms of all gradients; in host memory once `ready` is over.
        began: when the step began, by `time.perf_counter`.
    """

    slots: tuple[tuple[Slot, int], ...]
    values: Tensor
    ready: torch.cuda.Event | None
    began: float

    def read(self) -> list[float]:
        if self.ready is not None:
            self.ready.synchronize()
        return self.values.tolist()


class StepResults:
    """The steps whose losses and gradient norms have not been read yet.

    Attributes:
        ahead: how many steps may be launched before older ones are read.
    """

    def __init__(self, device: torch.device) -> None:
        self.ahead = 1 if device.type == "cuda" else 0
        self._steps: deque[_Step] = deque()

    def add(self, slots: Sequence[Slot], losses: Mapping[int, Tensor], norms: Tensor, began: float) -> None:
        """Copy the losses [] by slot and the norms [K] of a step that these slots have taken."""
        values = torch.cat([torch.stack([losses[slot.index] for slot in slots]), norms])
        ready = None
        if values.is_cuda:
            values = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        self._steps.append(_Step(tuple((slot, slot.step) for slot in slots), values, ready, began))

    def read(self, slots: Callable[[], Sequence[Slot]], ahead: int) -> Iterator[tuple[Slot, str]]:
        """Note each trial's losses in the steps so far, except for the last `ahead`; yields slots whose losses or norms
        are not finite, with the reason. This waits for the GPU.

        Args:
            slots: those that are occupied. A trial may have ended after the step, for what an earlier one gave.
        """
        while len(self._steps) > ahead:
            step = self._steps.popleft()
            found, left = step.read(), slots()
            ended = self._steps[0].began if self._steps else time.perf_counter()
            for (slot, number), loss in zip(step.slots, found, strict=False):
                if slot in left:
                    slot.record(loss, ended - step.began)
                    if not_finite := slot.not_finite(norm=found[len(step.slots) + slot.index]):
                        yield slot, f"{not_finite} at step {number}"

    def clear(self) -> None:
        self._steps.clear()

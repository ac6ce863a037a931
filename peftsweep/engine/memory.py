"""How many slots a GPU holds, by measuring a step rather than by a formula of the architecture; and what to do when
it holds fewer after all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from peftsweep.config import TrainConfig
from peftsweep.engine.slot import Slot
from peftsweep.engine.trial import Trial

if TYPE_CHECKING:
    from peftsweep.engine.pack import Examples, Pack

FILL = 0.9  # of the card, for the allocator's own losses
MOST = 64

T = TypeVar("T")


def in_halves(
    work: Callable[[Sequence[Slot]], dict[int, T]], slots: Sequence[Slot], alone: Callable[[Slot, str], object]
) -> dict[int, T]:
    """What `work` makes of the slots, by slot; out of memory, of one half of them after the other.

    Args:
        alone: told the slot that does not fit even by itself, and why; it has no result.
    """
    try:
        return work(slots)
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
    torch.cuda.empty_cache()  # outside of `except`: its traceback holds on to the step's tensors
    if len(slots) == 1:
        alone(slots[0], reason)
        return {}
    half = len(slots) // 2
    return in_halves(work, slots[:half], alone) | in_halves(work, slots[half:], alone)


def build_that_fits(build: Callable[[int], Pack], slots: int) -> Pack:
    """A pack of that many slots, or of half as many, and so on, as memory allows.

    Raises:
        torch.OutOfMemoryError: not even one slot fits.
    """
    while slots > 1:
        try:
            return build(slots)
        except torch.OutOfMemoryError:
            slots //= 2
        torch.cuda.empty_cache()
    return build(slots)


def slots_that_fit(build: Callable[[int], Pack], train: Examples, candidates: Sequence[TrainConfig]) -> int:
    """The largest K whose worst step fits the GPU under `FILL`.

    The worst step is one in which every slot holds the widest candidate and a batch of the longest texts. Its peak is
    measured for one slot and for two; memory grows by the same amount with each further slot.

    Args:
        build: makes a pack of that many slots; released again here.
    """
    pack = build(2)
    try:
        device = pack.device
        widest = max(candidates, key=lambda params: (params.batch_size, params.rank))
        longest = np.argsort([len(text) for text in train.input_ids])[-widest.batch_size :]
        one, two = (_peak(pack, count, widest, longest) for count in (1, 2))
        row = pack.stack.weights.shape[1] * pack.stack.weights.element_size()
        slot = two - one + 4 * row  # its activations; its weights, gradients and two moments
        fixed = two - 2 * (two - one) - 4 * row  # the pack of two holds two rows of weights and gradients already
        _, total = torch.cuda.mem_get_info(device)
        return int(np.clip((FILL * total - fixed) // max(slot, 1), 1, MOST))
    finally:
        pack.release()
        torch.cuda.empty_cache()


def _peak(pack: Pack, slots: int, params: TrainConfig, batch: NDArray[np.int64]) -> int:
    """Bytes at the peak of a step of so many slots, over the texts `batch` in each."""
    torch.cuda.reset_peak_memory_stats(pack.device)
    with tempfile.TemporaryDirectory() as folder:
        running = [pack.start(index, Trial(index, 0, params, Path(folder))) for index in range(slots)]
    pack.gradients(running, {slot.index: batch for slot in running})
    for slot in running:
        pack.vacate(slot)
    return torch.cuda.max_memory_allocated(pack.device)

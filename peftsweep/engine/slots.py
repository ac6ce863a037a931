"""How do trials enter and leave a pack? They start from a seed or a checkpoint, and leave an empty row behind."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from peftsweep.config import TrainConfig
from peftsweep.engine import checkpoint
from peftsweep.engine.packed_model import PackedModel
from peftsweep.engine.schedule import Schedule
from peftsweep.engine.slot import Slot
from peftsweep.engine.slot_weights import Drawn
from peftsweep.engine.trial import SlotStatus, Trial
from peftsweep.methods import Method


class Slots:
    """The K slots of a pack.

    Args:
        rows: number of texts in the training split.
        objective: the score by which a trial's evaluations are compared.
    """

    def __init__(self, packed: PackedModel, method: Method, rows: int, objective: str) -> None:
        self.stack, self.heads, self.method = packed.stack, frozenset(packed.heads), method
        self.rows, self.objective = rows, objective
        self.all: list[Slot | None] = [None] * len(self.stack.weights)

    def __len__(self) -> int:
        return len(self.all)

    @property
    def occupied(self) -> list[Slot]:
        return [slot for slot in self.all if slot is not None]

    @property
    def free(self) -> int:
        """Number of free slots."""
        return self.all.count(None)

    def start(self, trials: Sequence[Trial]) -> list[Slot]:
        """Start trials in free slots: each from its newest checkpoint if it has one, else from its seed."""
        free = [index for index, slot in enumerate(self.all) if slot is None][: len(trials)]
        for index in free:
            self.stack.clear(index)
        count, started = torch.get_num_threads(), list[Slot]()
        with ThreadPoolExecutor(count) as threads:  # each draw takes up to a tenth of a second, and a row of memory
            for begin in range(0, len(free), count):
                some = list(zip(free, trials, strict=True))[begin : begin + count]
                drawn = threads.map(lambda each: self._draw(*each), some)
                started += [self._place(*each, values) for each, values in zip(some, drawn, strict=True)]
        return started

    def put(self, index: int, trial: Trial) -> Slot:
        """Start a trial in a given slot."""
        self.stack.clear(index)
        return self._place(index, trial, self._draw(index, trial))

    def _draw(self, index: int, trial: Trial) -> Drawn:
        generator = torch.Generator().manual_seed(trial.seed)
        return self.stack.drawn(index, trial.params, self._adapted(trial.params), generator)

    def _place(self, index: int, trial: Trial, drawn: Drawn) -> Slot:
        self.stack.place(index, drawn)
        slot = Slot(
            index=index,
            trial=trial,
            schedule=Schedule(trial.params, self.rows),
            parameters=self.parameters(trial.params),
            objective=self.objective,
        )
        folder = checkpoint.newest(trial.folder)
        if folder is not None:
            checkpoint.restore(slot, self.stack, folder)
        self.all[index] = slot
        return slot

    def vacate(self, slot: Slot) -> None:
        """Clear the slot for the next trial."""
        self.all[slot.index] = None
        self.stack.clear(slot.index)

    def share_seconds(self, seconds: float) -> None:
        """Divide the time of a step among the trials that are still there."""
        for slot in self.occupied:
            slot.seconds += seconds / len(self.occupied)

    def status(self) -> tuple[SlotStatus, ...]:
        return tuple(SlotStatus(i) if slot is None else slot.status() for i, slot in enumerate(self.all))

    def parameters(self, params: TrainConfig) -> int:
        """Number of parameters that a trial with these hyperparameters trains."""
        adapted, row = self._adapted(params), self.stack.weights[0]
        return sum(
            param.of(row)[param.layer.trial_part(param.name, params)].numel()
            for param in self.stack.param_slices
            if param.layer.name in adapted
        )

    def _adapted(self, params: TrainConfig) -> frozenset[str]:
        """Paths of the layers that a trial with these hyperparameters trains."""
        return frozenset(self.method.targets(params)) | self.heads

"""Trials' scores: on the validation split while they train, on the test split when they have ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from peftsweep.engine.corpus import Text
from peftsweep.engine.oom import Unfit
from peftsweep.engine.runner import Runner
from peftsweep.engine.slot import Slot
from peftsweep.engine.trial import Scores
from peftsweep.methods import Method
from peftsweep.task import Task, tune_thresholds


class Examples(Protocol):
    """A tokenised split: the texts' token ids, and labels float32 [n, C] or int64 [n]."""

    @property
    def input_ids(self) -> Sequence[Text]: ...

    @property
    def labels(self) -> NDArray[np.generic]: ...


class SlotScores(NamedTuple):
    """A slot's scores and the logits [n, C] that gave them."""

    slot: Slot
    scores: Scores
    logits: NDArray[np.float32]

    @property
    def not_finite(self) -> list[str]:
        """The names of such scores."""
        return [name for name, value in self.scores.items() if not math.isfinite(value)]


@dataclass
class Evaluator:
    runner: Runner
    method: Method
    task: Task
    validation: Examples
    test: Examples | None

    def __post_init__(self) -> None:
        self.unseen = self.runner.packed.corpus(self.validation.input_ids)

    def on_validation(self, slots: Sequence[Slot]) -> tuple[list[SlotScores], list[Unfit]]:
        """Scores of the slots as they are now; and the slots that do not fit into memory."""
        found, unfit = self.runner.predict(slots, self.unseen)
        labels = np.asarray(self.validation.labels)
        there = [slot for slot in slots if slot.index in found]
        return [
            SlotScores(slot, self.task.scores(found[slot.index], labels), found[slot.index]) for slot in there
        ], unfit

    def on_test(self, slot: Slot, adapter: Path) -> Scores:
        """Scores of a trial that has ended on the test split, by its exported adapter.

        Args:
            slot: one in which the trial was started.

        Raises:
            torch.OutOfMemoryError: not even one trial fits into memory.
        """
        assert self.test is not None
        stack = self.runner.packed.stack
        weights = stack.split(slot.index, stack.weights[slot.index], slot.trial.params)
        self.method.read(adapter, weights, slot.trial.params)
        found, unfit = self.runner.predict([slot], self.runner.packed.corpus(self.test.input_ids))
        if unfit:
            raise torch.OutOfMemoryError(unfit[0].reason)
        logits, labels = found[slot.index], np.asarray(self.test.labels)
        scores = self.task.scores(logits, labels)
        if self.task.multi_label:  # by the validation rows' thresholds: those of the test would be tuned on the test
            ((_, _, seen),), _ = self.on_validation([slot])
            thresholds = tune_thresholds(seen, np.asarray(self.validation.labels))
            scores["macro_f1_tuned"] = self.task.macro_f1(labels, self.task.predictions(logits, thresholds))
        return scores

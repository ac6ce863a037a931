"""How are trials scored? On the validation split while they train, on the test split after they have ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from peftsweep.engine.corpus import Corpus, Text
from peftsweep.engine.oom import Unfit
from peftsweep.engine.runner import Runner
from peftsweep.engine.slot import Slot
from peftsweep.engine.trial import Scores
from peftsweep.methods import Method
from peftsweep.task import Task, tune_thresholds


class Examples(Protocol):
    """A tokenised split: token ids of the texts, and labels, float32 [n, C] or int64 [n]."""

    @property
    def input_ids(self) -> Sequence[Text]: ...

    @property
    def labels(self) -> NDArray[np.generic]: ...


class SlotScores(NamedTuple):
    """The scores of a slot, and the logits [n, C] that they follow from."""

    slot: Slot
    scores: Scores
    logits: NDArray[np.float32]

    @property
    def not_finite(self) -> list[str]:
        """Names of the scores that are not finite."""
        return [name for name, value in self.scores.items() if not math.isfinite(value)]


@dataclass
class Evaluator:
    runner: Runner
    method: Method
    task: Task
    validation: Examples
    test: Examples | None

    def __post_init__(self) -> None:
        self.validation_corpus = self.runner.packed.corpus(self.validation.input_ids)

    def on_validation(self, slots: Sequence[Slot]) -> tuple[list[SlotScores], list[Unfit]]:
        """Scores of the slots' present weights; and the slots that do not fit into memory."""
        found, unfit = self.runner.predict(slots, self.validation_corpus)
        labels = np.asarray(self.validation.labels)
        there = [slot for slot in slots if slot.index in found]
        return [
            SlotScores(slot, self.task.scores(found[slot.index], labels), found[slot.index]) for slot in there
        ], unfit

    def on_test(self, slot: Slot, adapter: Path) -> Scores:
        """Scores of an ended trial's adapter on the test split.

        Args:
            slot: a slot in which the trial was started.
            adapter: the folder of the adapter.

        Raises:
            torch.OutOfMemoryError: the trial does not fit into memory even alone.
        """
        assert self.test is not None
        stack = self.runner.packed.stack
        weights = stack.split(slot.index, stack.weights[slot.index], slot.trial.params)
        self.method.read(adapter, weights, slot.trial.params)
        logits = self._logits(slot, self.runner.packed.corpus(self.test.input_ids))
        labels = np.asarray(self.test.labels)
        scores = self.task.scores(logits, labels)
        if self.task.multi_label:  # by the validation rows' thresholds: those of the test would be tuned on the test
            seen = self._logits(slot, self.validation_corpus)
            thresholds = tune_thresholds(seen, np.asarray(self.validation.labels))
            scores["macro_f1_tuned"] = self.task.macro_f1(labels, self.task.predictions(logits, thresholds))
        return scores

    def _logits(self, slot: Slot, corpus: Corpus) -> NDArray[np.float32]:
        """Logits [n, C] of one slot.

        Raises:
            torch.OutOfMemoryError: it does not fit into memory even alone.
        """
        found, unfit = self.runner.predict([slot], corpus)
        if unfit:
            raise torch.OutOfMemoryError(unfit[0].reason)
        return found[slot.index]

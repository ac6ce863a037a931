"""Packs for tests: random texts, a source that gives trials in order, a pack that writes down what it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from peftsweep.config import ModelConfig
from peftsweep.engine import Evaluation, Pack, Report, Result, SlotStatus, Trial
from peftsweep.methods import METHODS
from peftsweep.models import Base, linear_names, load_base
from peftsweep.task import Task

MULTI = Task("multi-label", ("a", "b", "c"))
CPU = torch.device("cpu")
SINGLE = Task("single-label", ("a", "b", "c"))


class Texts:
    """A tokenised split of random token ids: the engine needs no more."""

    def __init__(self, task: Task, n: int, seed: int, shortest: int = 3, longest: int = 19) -> None:
        rng = np.random.default_rng(seed)
        self.input_ids = [rng.integers(5, 100, size=rng.integers(shortest, longest + 1)) for _ in range(n)]
        if task.kind == "multi-label":
            self.labels = (rng.random((n, 3)) < 0.4).astype(np.float32)
        else:
            self.labels = rng.integers(0, 3, size=n)


class Queue:
    """A source that gives the trials in order, keeps all, and remembers what it was told."""

    def __init__(self, trials: list[Trial]) -> None:
        self.waiting = list(trials)
        self.losses: dict[int, list[float]] = {trial.number: [] for trial in trials}
        self.slots: dict[int, int] = {}
        self.results: dict[int, Result] = {}
        self.evaluations: dict[int, list[Evaluation]] = {trial.number: [] for trial in trials}
        self.stop_after: int | None = None

    def next(self) -> Trial | None:
        return self.waiting.pop(0) if self.waiting else None

    def report(self, reports: list[Report]) -> list[bool]:
        for report in reports:
            self.evaluations[report.trial.number].append(report.evaluation)
        return [True] * len(reports)

    def finish(self, trial: Trial, result: Result) -> None:
        self.results[trial.number] = result

    def stepped(self, slots: list[SlotStatus], seconds: float) -> bool:
        if self.stop_after is not None:
            self.stop_after -= 1
        return self.stop_after != 0


class Watched(Pack):
    """A pack that writes down each step's loss and each trial's first and last weights."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.first: dict[int, dict[str, torch.Tensor]] = {}
        self.last: dict[int, dict[str, torch.Tensor]] = {}
        self.trace: dict[int, list[float]] = {}
        self.where: dict[int, int] = {}

    def weights(self, slot):  # type: ignore[no-untyped-def]
        row = self.stack.weights[slot.index]
        return {k: v.clone() for k, v in self.stack.split(slot.index, row, slot.trial.params).items()}

    def start(self, index, trial):  # type: ignore[no-untyped-def]
        slot = super().start(index, trial)
        self.first[trial.number], self.where[trial.number] = self.weights(slot), index
        return slot

    def losses(self, slots, source):  # type: ignore[no-untyped-def]
        found = super().losses(slots, source)
        for slot in slots:
            if slot.index in found:
                self.trace.setdefault(slot.trial.number, []).append(float(found[slot.index]))
        return found

    def end(self, slot, source, state, reason):  # type: ignore[no-untyped-def]
        self.last[slot.trial.number] = self.weights(slot)
        super().end(slot, source, state, reason)


def base_of(folder: Path, task: Task, method: str, dtype: str = "float32", device: torch.device = CPU) -> Base:
    config = ModelConfig(id=str(folder), dtype=dtype)  # type: ignore[arg-type]
    return load_base(config, task, four_bit=METHODS[method].four_bit, device=device)


def pack_of(
    folder: Path,
    task: Task,
    method: str,
    trials: list[Trial],
    slots: int,
    kind: type[Watched] = Watched,
    dtype: str = "float32",
    **kwargs: object,
) -> Watched:
    return pack_on(base_of(folder, task, method, dtype).model, task, method, trials, slots, kind, **kwargs)


def pack_on(
    model: Any,
    task: Task,
    method: str,
    trials: list[Trial],
    slots: int,
    kind: type[Watched] = Watched,
    validation: Texts | None = None,
    **kwargs: object,
) -> Watched:
    """On a base that is loaded."""
    adapters = METHODS[method](model, linear_names(model))
    train, validation = Texts(task, 37, 1), validation or Texts(task, 12, 2)
    candidates = [trial.params for trial in trials]
    return kind(model, adapters, task, train, validation, candidates=candidates, slots=slots, **kwargs)  # type: ignore[arg-type]


def with_the_whole_block(pack: Watched) -> Watched:
    """The pack, whose last block is run for all tokens."""
    assert pack.packed.last is not None
    pack.packed.last.remove()
    pack.packed.last = None
    return pack


def worst(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """By how much any of the weights differs at most."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[key] - theirs[key]).abs().max()) for key in ours)

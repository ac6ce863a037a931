"""Packs for tests: random texts, a source that gives trials in order, a pack that writes down what it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from peftsweep.config import ModelConfig
from peftsweep.engine import Evaluation, Pack, Report, Result, SlotStatus, Trial
from peftsweep.methods import METHODS
from peftsweep.models import Base, linear_names, load_base
from peftsweep.task import Task
from tests.numbers import as_stored

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

    @property
    def dtype(self) -> torch.dtype:
        """Of the base, and so of its products."""
        return next(self.packed.model.parameters()).dtype

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


class Traced(Watched):
    """A pack that writes down each step's weights, loss and gradients, by the trial's number."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.steps: dict[int, list[tuple[dict[str, torch.Tensor], float, dict[str, torch.Tensor]]]] = {}

    def losses(self, slots, source):  # type: ignore[no-untyped-def]
        found = super().losses(slots, source)
        for slot in slots:
            grads = self.stack.split(slot.index, self.stack.grads[slot.index].clone(), slot.trial.params)
            step = self.weights(slot), float(found[slot.index]), grads
            self.steps.setdefault(slot.trial.number, []).append(step)
        return found


def base_of(folder: Path, task: Task, method: str, dtype: str = "float32", device: torch.device = CPU) -> Base:
    """Amid `numbers.float64`, the numbers of its files (those of 4 bits, too) in float64."""
    config = ModelConfig(id=str(folder), dtype=dtype)  # type: ignore[arg-type]
    with as_stored():
        base = load_base(config, task, four_bit=METHODS[method].four_bit, device=device)
    if torch.get_default_dtype() == torch.float64:
        for name in linear_names(base.model) if base.four_bit else []:
            base.model.set_submodule(name, Unpacked(base.model.get_submodule(name)))
        base.model.double()
    return base


class Unpacked(nn.Linear):
    """The numbers of a layer in 4 bits, of which bitsandbytes makes no products in float64."""

    def __init__(self, layer: Any) -> None:
        from bitsandbytes.functional import dequantize_4bit

        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        with as_stored():
            weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        self.weight = nn.Parameter(weight, requires_grad=False)


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

"""Packs for tests: random texts, a judge that gives trials in order, a pack that writes down what it does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from peftsweep.config import ModelConfig
from peftsweep.engine import Evaluation, Pack, PackWorker, Progress, Report, Result, SlotStatus, Trial
from peftsweep.engine.oom import Unfit
from peftsweep.engine.runner import Runner
from peftsweep.engine.slot import Slot
from peftsweep.engine.slot_weights import SlotParameters
from peftsweep.engine.slots import Slots
from peftsweep.methods import METHODS
from peftsweep.models import Base, linear_names, load_base
from peftsweep.sweep.judge import Judge, drive
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


class Queue(Judge):
    """Answers a pack: gives the trials in order, keeps all, and remembers the events."""

    def __init__(self, trials: list[Trial]) -> None:
        self.waiting = list(trials)
        self.losses: dict[int, list[float]] = {trial.number: [] for trial in trials}
        self.slots: dict[int, int] = {}
        self.results: dict[int, Result] = {}
        self.evaluations: dict[int, list[Evaluation]] = {trial.number: [] for trial in trials}
        self.notes: list[str] = []
        self.stop_after: int | None = None
        self.stopped = False

    def next(self) -> Trial | None:
        return self.waiting.pop(0) if self.waiting else None

    def report(self, reports: Sequence[Report]) -> list[bool]:
        for report in reports:
            self.evaluations[report.trial.number].append(report.evaluation)
        return [True] * len(reports)

    def finish(self, trial: Trial, result: Result) -> None:
        self.results[trial.number] = result

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progressed(self, event: Progress) -> None:
        if not self.stopped:
            self.stopped = not self.stepped(event.slots)

    def stepped(self, slots: Sequence[SlotStatus]) -> bool:
        """Whether to go on after a step."""
        if self.stop_after is not None:
            self.stop_after -= 1
        return self.stop_after != 0

    def wants_stop(self) -> bool:
        return self.stopped


def weights_of(stack: SlotParameters, slot: Slot) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in stack.split(slot.index, stack.weights[slot.index], slot.trial.params).items()}


class WatchedRunner(Runner):
    """A runner that writes down each step's loss, by the trial's number."""

    @property
    def trace(self) -> dict[int, list[float]]:
        return self.__dict__.setdefault("_trace", {})  # type: ignore[no-any-return]

    def forward_backward(self, slots: Sequence[Slot]) -> tuple[dict[int, torch.Tensor], list[Unfit]]:
        losses, unfit = super().forward_backward(slots)
        for slot in slots:
            if slot.index in losses:
                self.trace.setdefault(slot.trial.number, []).append(float(losses[slot.index]))
        return losses, unfit


class TracedRunner(WatchedRunner):
    """A runner that writes down each step's weights, loss and gradients, by the trial's number."""

    @property
    def steps(self) -> dict[int, list[tuple[dict[str, torch.Tensor], float, dict[str, torch.Tensor]]]]:
        return self.__dict__.setdefault("_steps", {})  # type: ignore[no-any-return]

    def forward_backward(self, slots: Sequence[Slot]) -> tuple[dict[int, torch.Tensor], list[Unfit]]:
        losses, unfit = super().forward_backward(slots)
        stack = self.packed.stack
        for slot in slots:
            grads = stack.split(slot.index, stack.grads[slot.index].clone(), slot.trial.params)
            step = weights_of(stack, slot), float(losses[slot.index]), grads
            self.steps.setdefault(slot.trial.number, []).append(step)
        return losses, unfit


class WatchedSlots(Slots):
    """Slots that write down each trial's first and last weights, and its slot."""

    first: dict[int, dict[str, torch.Tensor]]
    last: dict[int, dict[str, torch.Tensor]]
    where: dict[int, int]

    def put(self, index: int, trial: Trial) -> Slot:
        slot = super().put(index, trial)
        self.first[trial.number], self.where[trial.number] = weights_of(self.stack, slot), index
        return slot

    def vacate(self, slot: Slot) -> None:
        self.last[slot.trial.number] = weights_of(self.stack, slot)
        super().vacate(slot)


def run_pack(pack: Pack, judge: Judge) -> None:
    """Let the judge drive the pack to its end; it hears of every step."""
    drive(PackWorker(pack, heartbeat=0.0), judge)


class Watched(Pack):
    """A pack that writes down each step's loss and each trial's first and last weights."""

    runner: WatchedRunner
    slots: WatchedSlots

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.runner.__class__, self.slots.__class__ = WatchedRunner, WatchedSlots
        self.slots.first, self.slots.last, self.slots.where = {}, {}, {}
        self.first, self.last, self.where = self.slots.first, self.slots.last, self.slots.where

    @property
    def trace(self) -> dict[int, list[float]]:
        return self.runner.trace

    @property
    def dtype(self) -> torch.dtype:
        """Of the base, and so of its products."""
        return next(self.packed.model.parameters()).dtype


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
    **kwargs: Any,
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
    runner: type[WatchedRunner] = WatchedRunner,
    **kwargs: object,
) -> Watched:
    """On a base that is loaded.

    Args:
        runner: how its passes are to run.
    """
    adapters = METHODS[method](model, linear_names(model))
    train, validation = Texts(task, 37, 1), validation or Texts(task, 12, 2)
    candidates = [trial.params for trial in trials]
    pack = kind(model, adapters, task, train, validation, candidates=candidates, slots=slots, **kwargs)  # type: ignore[arg-type]
    pack.runner.__class__ = runner
    return pack


def with_the_whole_block(pack: Watched) -> Watched:
    """The pack, whose last block is run for all tokens."""
    assert pack.packed.last is not None
    pack.packed.last.remove()
    pack.packed.last = None
    return pack

"""Packs for tests: random texts, a judge that gives trials in order, a pack that writes down what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from peftsweep.config import ModelConfig
from peftsweep.engine import Evaluation, Pack, PackWorker, Progressed, Report, Result, SlotStatus, Trial
from peftsweep.engine.slot import Slot
from peftsweep.engine.slot_weights import SlotParameters
from peftsweep.engine.step_results import StepResults
from peftsweep.layers import Segments
from peftsweep.methods import METHODS
from peftsweep.models import Base, linear_names, load_base
from peftsweep.sweep.judge import Judge, drive
from peftsweep.task import Task
from peftsweep.trial_state import Ended
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

    def next(self, worker: int) -> Trial | None:
        return self.waiting.pop(0) if self.waiting else None

    def report(self, reports: Sequence[Report]) -> list[bool]:
        for report in reports:
            self.evaluations[report.trial.number].append(report.evaluation)
        return [True] * len(reports)

    def finish(self, trial: Trial, result: Result) -> None:
        self.results[trial.number] = result

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progressed(self, event: Progressed, worker: int) -> None:
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


def run_pack(pack: Pack, judge: Judge) -> None:
    """Let the judge drive the pack to its end, with a `Progress` event after every step."""
    drive(PackWorker(pack, heartbeat=0.0), judge)


class WatchedResults(StepResults):
    """Writes down the loss of each step, by the trial's number."""

    def __init__(self, device: torch.device, trace: dict[int, list[float]]) -> None:
        super().__init__(device)
        self.trace = trace

    def add(self, slots: Sequence[Slot], losses: Mapping[int, torch.Tensor], norms: torch.Tensor, began: float) -> None:
        for slot in slots:
            self.trace.setdefault(slot.trial.number, []).append(float(losses[slot.index]))
        super().add(slots, losses, norms, began)


class Watched(Pack):
    """A pack that writes down each trial's slot, its first and last weights, and the loss of each of its steps.

    All are by the trial's number.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.where: dict[int, int] = {}
        self.first: dict[int, dict[str, torch.Tensor]] = {}
        self.last: dict[int, dict[str, torch.Tensor]] = {}
        self.trace: dict[int, list[float]] = {}
        self.results = WatchedResults(self.packed.device, self.trace)

    def admit(self, trials: Iterable[Trial]) -> None:
        admitted = list(trials)
        super().admit(admitted)
        for slot in self.slots.occupied:
            if slot.trial in admitted:
                self.where[slot.trial.number] = slot.index
                self.first[slot.trial.number] = weights_of(self.stack, slot)

    def end(self, slot: Slot, state: Ended, reason: str) -> None:
        self.last[slot.trial.number] = weights_of(self.stack, slot)
        super().end(slot, state, reason)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the base, and so of its matrix products."""
        return next(self.packed.model.parameters()).dtype


class Traced(Watched):
    """A pack that also counts its updates, and writes down each trial's weights and gradients just before them.

    Attributes:
        count: number of updates.
        updates: a pair for each of a trial's steps, by the trial's number.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.count = 0
        self.updates: dict[int, list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]] = {}

    def step(self) -> None:
        with BeforeUpdate(self):
            super().step()

    def before_update(self) -> None:
        self.count += 1
        for slot in self.slots.occupied:
            grads = self.stack.split(slot.index, self.stack.grads[slot.index].clone(), slot.trial.params)
            self.updates.setdefault(slot.trial.number, []).append((weights_of(self.stack, slot), grads))


class BeforeUpdate(TorchFunctionMode):
    """Notices when torch is asked for the norms of all gradients, which is how an update begins."""

    def __init__(self, pack: Traced) -> None:
        super().__init__()
        self.pack = pack

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.norm and args[0] is self.pack.stack.grads:
            self.pack.before_update()
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Pass:
    """One forward pass of the base.

    Attributes:
        training: whether a backward pass follows.
        input_ids: [T], with the tokens that fill rows up.
        filler: the token that fills rows up.
        segments: which of the tokens belong to which slot.
    """

    training: bool
    input_ids: torch.Tensor
    filler: int
    segments: Segments

    @property
    def slots(self) -> tuple[int, ...]:
        return self.segments.slots

    @property
    def tokens(self) -> dict[int, int]:
        """Number of tokens by slot, without those that fill rows up."""
        return {
            slot: int((self.input_ids[start:stop] != self.filler).sum())
            for slot, start, stop in self.segments.by_slot()
        }


def before_each_pass(pack: Pack, see: Callable[[Pass], object]) -> RemovableHandle:
    """Call `see` whenever the base begins a forward pass, in the thread of that pass. It may raise, like an allocator
    that finds memory full. A pass that is replayed as a CUDA graph calls nothing."""

    def begins(module: nn.Module, args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        filler, segments = pack.packed.pooling.pad_token_id, pack.packed.context.segments
        see(Pass(torch.is_grad_enabled(), kwargs["input_ids"][0], filler, segments))

    return pack.packed.backbone.register_forward_pre_hook(begins, with_kwargs=True)


def base_of(folder: Path, task: Task, method: str, dtype: str = "float32", device: torch.device = CPU) -> Base:
    """A loaded base. Inside `numbers.float64`, it has the weights of its files in float64, those in 4 bits too."""
    config = ModelConfig(id=str(folder), dtype=dtype)  # type: ignore[arg-type]
    with as_stored():
        base = load_base(config, task, four_bit=METHODS[method].four_bit, device=device)
    if torch.get_default_dtype() == torch.float64:
        for name in linear_names(base.model) if base.four_bit else []:
            base.model.set_submodule(name, Unpacked(base.model.get_submodule(name)))
        base.model.double()
    return base


class Unpacked(nn.Linear):
    """A layer with the dequantised weights of one in 4 bits, because bitsandbytes does not multiply in float64."""

    def __init__(self, layer: Any) -> None:
        from bitsandbytes.functional import dequantize_4bit

        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        with as_stored():
            weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        self.weight = nn.Parameter(weight, requires_grad=False)


P = TypeVar("P", bound=Pack)


def pack_of(
    folder: Path,
    task: Task,
    method: str,
    trials: list[Trial],
    slots: int,
    kind: type[P] = Watched,  # type: ignore[assignment]
    dtype: str = "float32",
    **kwargs: Any,
) -> P:
    return pack_on(base_of(folder, task, method, dtype).model, task, method, trials, slots, kind, **kwargs)


def pack_on(
    model: Any,
    task: Task,
    method: str,
    trials: list[Trial],
    slots: int,
    kind: type[P] = Watched,  # type: ignore[assignment]
    validation: Texts | None = None,
    **kwargs: Any,
) -> P:
    """A pack on a loaded base."""
    adapters = METHODS[method](model, linear_names(model))
    train, validation = Texts(task, 37, 1), validation or Texts(task, 12, 2)
    candidates = [trial.params for trial in trials]
    return kind(model, adapters, task, train, validation, candidates=candidates, slots=slots, **kwargs)


def with_the_whole_block(pack: Watched) -> Watched:
    """The pack, after its last block was made to run on all tokens."""
    assert pack.packed.last is not None
    pack.packed.last.remove()
    pack.packed.last = None
    return pack

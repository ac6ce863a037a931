"""What is a worker? It loads the base and trains a pack on it. A sweep drives it with four calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from peftsweep.config import StudyConfig, TrainConfig
from peftsweep.data import Dataset
from peftsweep.engine import (
    CHECKPOINT_EVERY,
    Command,
    Event,
    Leaders,
    Limits,
    Pack,
    PackWorker,
    Plan,
    build_that_fits,
    capped,
    in_equal_turns,
    plan,
)
from peftsweep.methods import METHODS, Method
from peftsweep.models import Base, BaseInfo, cache_folder, default_device, linear_names, load_base
from peftsweep.workers.compatibility import check_fit

# Training tokens of a study from which it pays off to compile blocks, and the last one, too: see benchmarks/notes.md.
COMPILE_FROM, COMPILE_LAST_FROM = 5_000_000, 100_000_000
CPU_SLOTS = 8  # enough to keep the cores busy, and to share the fixed cost of a step


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is to train. It can be pickled.

    Attributes:
        candidates: the largest hyperparameters that a trial may have; they bound memory and shapes.
        smallest: the smallest ones; they bound the number of trainable parameters.
        slots: number of trials to train at once. "auto": as many as fit on the GPU.
        checkpoint_every: seconds between two checkpoints of a trial.
        adapters: how many trials keep their adapter. None: all.
    """

    config: StudyConfig
    data: Dataset
    candidates: Sequence[TrainConfig]
    smallest: Sequence[TrainConfig]
    slots: int | Literal["auto"]
    checkpoint_every: float = CHECKPOINT_EVERY
    adapters: int | None = None


@dataclass(frozen=True)
class Memory:
    """The GPU memory planned for a pack, in bytes."""

    planned: int
    whole: int
    slots: int
    tokens: int  # most tokens that go through the base at once


@dataclass(frozen=True)
class PackInfo:
    """What a worker has built.

    Attributes:
        method: holds the names of the base's layers, but not the base.
        trainable: fewest and most trainable parameters of a trial.
        memory: planned GPU memory; None on a CPU.
        notes: lines for the user.
    """

    method: Method
    slots: int
    trainable: tuple[int, int]
    memory: Memory | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Usage:
    """Seconds that a worker spent on each kind of work, and its peak of GPU memory in bytes (None on a CPU)."""

    seconds: dict[str, float]
    peak_bytes: int | None


class Worker(Protocol):
    """The calls by which the study drives a worker. Arguments and results can be pickled."""

    def load(self) -> BaseInfo:
        """Load the base, and check that its tokenizer and the data fit it."""

    def build(self, trials: int) -> PackInfo:
        """Build a pack with the wanted number of slots, or as many as fit.

        Args:
            trials: how many the worker may have to train. It needs no more slots.
        """

    def advance(self, commands: Sequence[Command]) -> list[Event]:
        """See `PackWorker.advance`."""

    def close(self) -> Usage:
        """Release the memory, and return what was used."""


StartWorker = Callable[[WorkerSpec], Worker]


class LocalWorker:
    """A worker in this process."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec, self.device = spec, default_device()
        self.base: Base | None = None
        self.worker: PackWorker | None = None
        self._cleanup = ExitStack()
        self._cleanup.enter_context(capped(self.device))

    def load(self) -> BaseInfo:
        config, kind = self.spec.config, METHODS[self.spec.config.method]
        self.base = load_base(config.model, self.spec.data.task, four_bit=kind.four_bit, device=self.device)
        check_fit(self.base, config, self.spec.data)
        return self.base.info

    def build(self, trials: int) -> PackInfo:
        assert self.base is not None
        base, spec = self.base, self.spec
        method = METHODS[spec.config.method](base.model, linear_names(base.model))
        longest = max(params.epochs for params in spec.candidates) * sum(map(len, spec.data.train.input_ids))

        def build(count: int, limits: Limits | None = None) -> Pack:
            return Pack(
                base.model,
                method,
                spec.data.task,
                spec.data.train,
                spec.data.validation,
                spec.data.test,
                candidates=spec.candidates,
                slots=count,
                limits=limits,
                compiled=trials * longest > COMPILE_FROM,
                compiles_last=trials * longest > COMPILE_LAST_FROM,
                objective=spec.config.search.objective,
                checkpoint_every=spec.checkpoint_every,
            )

        notes = []
        if base.device.type == "cuda":
            keep_compiled_code()
        planned = plan(build, spec.candidates, trials) if base.device.type == "cuda" else None
        fitting = CPU_SLOTS if planned is None else planned.slots
        count = spec.slots if spec.slots != "auto" else in_equal_turns(trials, fitting)
        if planned is not None and planned.for_slots(count).slots < count:
            count = planned.for_slots(count).slots
            notes.append(f"memory: the GPU has room for {count} slots; the other trials wait")

        def planned_build(count: int) -> Pack:
            return build(count, None if planned is None else planned.for_slots(count).limits)

        pack = build_that_fits(planned_build, max(1, min(count, trials)))
        self._cleanup.callback(pack.release)
        leaders = None if spec.adapters is None else Leaders(spec.adapters, spec.config.search.objective)
        self.worker = PackWorker(pack, leaders=leaders)
        slots = len(pack.slots)
        trained = [pack.slots.parameters(params) for params in (*spec.candidates, *spec.smallest)]
        memory = None if planned is None else _memory(planned.for_slots(slots), base.device)
        if memory is not None:
            torch.cuda.reset_peak_memory_stats(base.device)
        return PackInfo(method, slots, (min(trained), max(trained)), memory, tuple(notes))

    def advance(self, commands: Iterable[Command]) -> list[Event]:
        assert self.worker is not None
        return self.worker.advance(commands)

    def passes(self) -> int:
        """Number of passes through the base, since the pack was built. It grows during `advance`."""
        return 0 if self.worker is None else self.worker.pack.runner.passes

    def close(self) -> Usage:
        self._cleanup.close()
        if self.worker is None:
            return Usage({}, None)
        peak = torch.cuda.max_memory_reserved(self.device) if self.device.type == "cuda" else None
        return Usage(dict(self.worker.pack.clock.seconds), peak)


def keep_compiled_code() -> None:
    """Let torch keep compiled code in the user's cache. By default it does so in the folder for temporary files, which
    is empty after the machine's next start."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))


def _memory(planned: Plan, device: torch.device) -> Memory:
    _, whole = torch.cuda.mem_get_info(device)
    return Memory(planned.bytes, whole, planned.slots, planned.tokens)

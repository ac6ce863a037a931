"""A worker: the base loaded, a pack on it, and four calls by which the study drives it, here or in another process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from peftsweep.config import StudyConfig, TrainConfig
from peftsweep.data import Dataset
from peftsweep.engine import Command, Event, Limits, Pack, PackWorker, Plan, build_that_fits, capped, plan
from peftsweep.methods import METHODS, Method
from peftsweep.models import Base, BaseInfo, default_device, linear_names, load_base
from peftsweep.progress import Memory
from peftsweep.sweep.compatibility import check_fit

WORTH_COMPILING = 5_000_000  # tokens that a study may train on, above which it compiles: see benchmarks/notes.md
CPU_SLOTS = 8  # enough for a CPU's cores; what every step costs is shared by eight


@dataclass(frozen=True)
class Work:
    """What a worker needs to know. It can be pickled.

    Attributes:
        candidates: hyperparameters that bound what trials may ask for.
        smallest: hyperparameters of which none trains fewer numbers.
        trials: how many are left to train.
    """

    config: StudyConfig
    data: Dataset
    candidates: Sequence[TrainConfig]
    smallest: Sequence[TrainConfig]
    trials: int
    slots: int | Literal["auto"]


@dataclass(frozen=True)
class Ready:
    """A pack that stands.

    Attributes:
        method: it knows the base's layers by name, and needs no base.
        trainable: of a trial: the fewest and the most numbers that the candidates allow.
        memory: of a GPU; None for a CPU.
        notes: lines that a person should read.
    """

    method: Method
    slots: int
    trainable: tuple[int, int]
    memory: Memory | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Usage:
    """What a worker took: seconds by kind of work, and bytes of the GPU's memory at most (None for a CPU)."""

    seconds: dict[str, float]
    peak_bytes: int | None


class Worker(Protocol):
    """The study's half of the door. Arguments and results can be pickled."""

    def load(self) -> BaseInfo:
        """Load the base, and check that it, its tokenizer and the data belong together."""

    def build(self) -> Ready:
        """Build a pack of as many slots as are wanted and fit."""

    def advance(self, commands: Sequence[Command]) -> list[Event]:
        """See `PackWorker.advance`."""

    def close(self) -> Usage:
        """Give everything back."""


class LocalWorker:
    """A worker in this process."""

    def __init__(self, work: Work) -> None:
        self.work, self.device = work, default_device()
        self.base: Base | None = None
        self.worker: PackWorker | None = None
        self.left = ExitStack()
        self.left.enter_context(capped(self.device))

    def load(self) -> BaseInfo:
        config, kind = self.work.config, METHODS[self.work.config.method]
        self.base = load_base(config.model, self.work.data.task, four_bit=kind.four_bit, device=self.device)
        check_fit(self.base, config, self.work.data)
        return self.base.info

    def build(self) -> Ready:
        assert self.base is not None
        base, work = self.base, self.work
        method = METHODS[work.config.method](base.model, linear_names(base.model))
        longest = max(params.epochs for params in work.candidates) * sum(map(len, work.data.train.input_ids))
        compiled = work.trials * longest > WORTH_COMPILING

        def build(count: int, limits: Limits | None = None) -> Pack:
            return Pack(
                base.model,
                method,
                work.data.task,
                work.data.train,
                work.data.validation,
                work.data.test,
                candidates=work.candidates,
                slots=count,
                limits=limits,
                compiled=compiled,
                objective=work.config.search.objective,
            )

        notes = []
        planned = plan(build, work.candidates, work.trials) if base.device.type == "cuda" else None
        count = work.slots if work.slots != "auto" else CPU_SLOTS if planned is None else planned.slots
        if planned is not None and planned.of(count).slots < count:
            count = planned.of(count).slots
            notes.append(f"memory: the GPU has room for {count} slots; the others wait")

        def planned_build(count: int) -> Pack:
            return build(count, None if planned is None else planned.of(count).limits)

        pack = build_that_fits(planned_build, max(1, min(count, work.trials)))
        self.left.callback(pack.release)
        self.worker = PackWorker(pack)
        slots = len(pack.slots)
        trained = [pack.slots.parameters(params) for params in (*work.candidates, *work.smallest)]
        memory = None if planned is None else _memory(planned.of(slots), base.device)
        if memory is not None:
            torch.cuda.reset_peak_memory_stats(base.device)
        return Ready(method, slots, (min(trained), max(trained)), memory, tuple(notes))

    def advance(self, commands: Iterable[Command]) -> list[Event]:
        assert self.worker is not None
        return self.worker.advance(commands)

    def close(self) -> Usage:
        self.left.close()
        if self.worker is None:
            return Usage({}, None)
        peak = torch.cuda.max_memory_reserved(self.device) if self.device.type == "cuda" else None
        return Usage(dict(self.worker.pack.clock.seconds), peak)


def _memory(planned: Plan, device: torch.device) -> Memory:
    _, whole = torch.cuda.mem_get_info(device)
    return Memory(planned.bytes, whole, planned.slots, planned.tokens)

"""What does a worker of Ray do with what goes wrong on its machine? Its calls are made in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest

from peftsweep.config import SPECS
from peftsweep.engine import Command
from peftsweep.errors import WorkerError
from peftsweep.methods import METHODS, register
from peftsweep.workers import WorkerSpec
from peftsweep.workers.pickled import dumped
from peftsweep.workers.ray_actor import RayWorker
from tests.studies import Home, home
from tests.troubled_methods import Lopsided


@pytest.fixture
def here(tmp_path: Path) -> Home:
    return home(tmp_path / "home")


@pytest.fixture(autouse=True)
def own_method(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("STARTED", "")
    monkeypatch.delenv("STARTED")  # and again after the test
    register(Lopsided)
    yield
    del METHODS[Lopsided.name], SPECS[Lopsided.name]


class WithoutRay:
    """The worker, called as Ray calls it."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.worker, self.spec = RayWorker("here", 1, "."), spec

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self._call(name, *arguments)

    def load(self) -> Any:
        return self._call("load", (METHODS[self.spec.config.method], self.spec))

    def advance(self, commands: Sequence[Command]) -> Any:
        os.environ["STARTED"] = "yes"  # building a pack tries passes of its own
        return self._call("advance", commands, None)

    def _call(self, name: str, *arguments: Any) -> Any:
        kind, value = self.worker.call(name, *(bytes(ForkingPickler.dumps(each)) for each in arguments))
        if kind == "lost":
            raise WorkerError(value)
        return ForkingPickler.loads(value)


def test_a_trial_that_is_too_large_by_itself_ends_and_its_worker_goes_on(here: Home) -> None:
    result = here.run(here.study(method="lopsided"), slots=2, start=WithoutRay)
    assert result.counts == {"complete": 1, "pruned": 2}
    assert [trial.number for trial in result.study.trials if trial.state.name == "COMPLETE"] == [1]


def test_a_worker_on_which_no_trial_fits_is_given_up(here: Home) -> None:
    with pytest.raises(WorkerError, match=r"^OutOfMemoryError on here: trial 0: out of memory"):
        here.run(here.study(method="lopsided"), slots=1, start=WithoutRay)


class Exhausted:
    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (1 << 62,)


def test_memory_that_runs_out_without_a_word_loses_the_worker() -> None:
    kind, why = RayWorker("here", 1, ".").call("load", dumped(Exhausted()))
    assert (kind, why) == ("lost", "MemoryError on here: MemoryError")

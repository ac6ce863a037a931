"""What does a worker of Ray do with what goes wrong on its machine? Its calls are made in this process."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch

from peftsweep.config import SPECS
from peftsweep.engine import Command
from peftsweep.errors import WorkerError
from peftsweep.methods import METHODS, register
from peftsweep.storage.identity import OWNER
from peftsweep.workers import WorkerSpec
from peftsweep.workers.checkpoint_folders import CheckpointFolders, Landmark
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


def fail(error: Exception) -> None:
    raise error


class Raised:
    """What a worker cannot unpickle: it raises the error instead."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return fail, (self.error,)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionError("the cache does not answer"), "lost"),
        (OSError(errno.ESTALE, "stale"), "lost"),
        (OSError(errno.ENOSPC, "full"), "error"),  # of the folder that all share
        (RuntimeError("cuBLAS error: CUBLAS_STATUS_EXECUTION_FAILED"), "lost"),
        (RuntimeError("CUDA error: device-side assert triggered"), "error"),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), "error"),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), "lost"),
        (NotImplementedError("no such operator for the 'CUDA' backend"), "error"),
    ],
)
def test_only_what_another_machine_may_do_better_loses_the_worker(error: Exception, kind: str, tmp_path: Path) -> None:
    (tmp_path / OWNER).write_text("{}")
    worker = RayWorker("here", 1, ".")
    worker.folders = CheckpointFolders(Landmark.of(tmp_path / OWNER))
    assert worker.call("advance", dumped(Raised(error)))[0] == kind
    assert worker.call("load", dumped(Raised(error)))[0] == ("error" if isinstance(error, OSError) else kind)


class Exhausted:
    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (1 << 62,)


def test_memory_that_runs_out_without_a_word_loses_the_worker() -> None:
    kind, why = RayWorker("here", 1, ".").call("load", dumped(Exhausted()))
    assert (kind, why) == ("lost", "MemoryError on here: MemoryError")

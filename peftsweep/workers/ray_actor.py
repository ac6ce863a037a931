"""What does a worker of Ray do? It answers calls like one of this process, on another machine perhaps."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch

from peftsweep.errors import PeftsweepError, WorkerError
from peftsweep.methods import register
from peftsweep.workers.worker import LocalWorker

OF_A_GPU = ("CUDA", "cuBLAS", "CUBLAS", "cuDNN", "CUDNN", "NCCL", "out of memory")  # words of errors of a broken GPU


class RayWorker:
    """
    Args:
        node: this machine's name.
        threads: of the CPU.
        folder: the sweep's working folder, from which a study file may name its base.
    """

    def __init__(self, node: str, threads: int, folder: str) -> None:
        self.node = node
        self.worker: LocalWorker | None = None
        torch.set_num_threads(min(threads, int(os.environ.get("OMP_NUM_THREADS", threads))))
        with suppress(OSError):  # it is on another machine
            os.chdir(folder)

    def call(self, name: str, *arguments: bytes) -> tuple[str, Any]:
        """Returns "answer" and the call's result, "failed" and the error that ends the study, or "lost" and why this
        worker must be replaced."""
        try:
            return "answer", ForkingPickler.dumps(self._answer(name, *map(ForkingPickler.loads, arguments))).tobytes()
        except BaseException as error:  # tokenizers panics with errors that are not Exceptions
            if any(map(_blames_the_machine, _chain(error))):
                return "lost", f"{type(error).__name__} on {self.node}: {str(error).splitlines()[0]}"
            return "failed", ForkingPickler.dumps(self._told(error)).tobytes()

    def _answer(self, name: str, *arguments: Any) -> Any:
        if name == "load":
            ((method, spec),) = arguments
            register(method)
            self.worker = LocalWorker(spec)
            return self.worker.load()
        assert self.worker is not None
        return getattr(self.worker, name)(*arguments)

    def _told(self, error: BaseException) -> Exception:
        """The error, with this machine's name. One that is not for users keeps its traceback."""
        if isinstance(error, PeftsweepError):
            return type(error)(f"{self.node}: {error}")
        told = WorkerError(f"{self.node}: {type(error).__name__}: {error}")
        told.add_note(f"In the worker on {self.node}:\n{traceback.format_exc()}")
        return told


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _blames_the_machine(error: BaseException) -> bool:
    """Whether the worker's GPU or memory is at fault, so that another worker may do better."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in OF_A_GPU)

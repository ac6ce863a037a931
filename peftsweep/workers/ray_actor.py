"""What does a worker of Ray do? It answers calls as a worker of this process does, perhaps on another machine."""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch

from peftsweep.engine import UNFIT, Command, Evaluated, Event, Note, TrialEnded
from peftsweep.errors import PeftsweepError, WorkerError, first_line
from peftsweep.methods import register
from peftsweep.workers.checkpoint_folders import CheckpointFolders, Landmark
from peftsweep.workers.pickled import dumped
from peftsweep.workers.worker import LocalWorker

OF_A_GPU = ("CUDA", "cuBLAS", "CUBLAS", "cuDNN", "CUDNN", "out of memory")  # words of errors of a broken GPU
OF_A_TRIAL = "device-side assert"  # CUDA's word for a bad index
OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
SEPARATE = (
    "{node} does not see {folder}, so checkpoints stay on {node}: if its worker is lost, workers elsewhere start its "
    "trials again from their seeds"
)
OTHERS = 0.1  # share of a GPU's memory that other programs must hold to be at fault


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
        self.folders: CheckpointFolders | None = None
        torch.set_num_threads(threads)  # Ray has set OMP_NUM_THREADS to the actor's CPUs
        with suppress(OSError):  # it is on another machine
            os.chdir(folder)

    def call(self, name: str, *arguments: bytes) -> tuple[str, Any]:
        """Returns "answer" and the call's result ("progress" if a trial has reached an evaluation), "error" and
        the one that ends the study, or "lost" and why this worker must be replaced."""
        try:
            value = self._answer(name, *map(ForkingPickler.loads, arguments))
            progress = isinstance(value, list) and any(isinstance(event, Evaluated) for event in value)
            return "progress" if progress else "answer", dumped(value)
        except BaseException as error:  # tokenizers panics with errors that are not Exceptions
            if any(self._blames_the_machine(each, name) for each in _chain(error)):
                return "lost", f"{type(error).__name__} on {self.node}: {first_line(error)}"
            return "error", dumped(self._told(error))

    def passes(self) -> int:
        """Number of passes through the base so far. Another thread may ask for it during a call."""
        return 0 if self.worker is None else self.worker.passes()

    def _answer(self, name: str, *arguments: Any) -> Any:
        if name == "load":
            ((method, spec),) = arguments
            register(method)
            self.worker, self.folders = LocalWorker(spec), None
            info = self.worker.load()
            return replace(info, device=_among_all(info.device))
        assert self.worker is not None
        return self._advance(*arguments) if name == "advance" else getattr(self.worker, name)(*arguments)

    def _advance(self, commands: Sequence[Command], landmark: Landmark | None) -> list[Event]:
        assert self.worker is not None
        notes: list[Event] = []
        if landmark is not None and self.folders is None:
            self.folders = CheckpointFolders(landmark)
            if not self.folders.shared:
                notes.append(Note(SEPARATE.format(node=self.node, folder=landmark.file.parent)))
        events = self.worker.advance(commands if self.folders is None else self.folders.here(commands))
        ends = [event for event in events if isinstance(event, TrialEnded)]
        unfit = [event for event in ends if event.result.reason.startswith(UNFIT)]
        if unfit and self._is_full(self.worker):
            raise torch.OutOfMemoryError(f"trial {unfit[0].trial.number}: {unfit[0].result.reason}")
        if self.folders is not None:
            self.folders.tidy(events)
        return [*notes, *events]

    def _is_full(self, worker: LocalWorker) -> bool:
        """After a trial did not fit even alone: whether others have taken this machine's memory, so that trials may fit
        elsewhere. A trial that is too large by itself only ends."""
        if worker.device.type == "cuda":
            free, whole = torch.cuda.mem_get_info(worker.device)
            return whole - free - torch.cuda.memory_reserved(worker.device) > OTHERS * whole
        return worker.worker is not None and not worker.worker.pack.slots.occupied

    def _blames_the_machine(self, error: BaseException, call: str) -> bool:
        """Whether this machine's GPU, memory, disk or network is at fault, so that another worker may do better."""
        if isinstance(error, OSError):  # one while the base is loaded tells of the node, and needs no further worker
            shared = self.folders is not None and self.folders.shared
            return call == "advance" and not (shared and error.errno in OF_A_DISK)
        if OF_A_TRIAL in str(error):
            return False
        if isinstance(error, MemoryError | torch.OutOfMemoryError | torch.AcceleratorError):
            return True
        return type(error) is RuntimeError and any(word in str(error) for word in OF_A_GPU)

    def _told(self, error: BaseException) -> Exception:
        """The error, with this machine's name. One that is not for users keeps its traceback."""
        if isinstance(error, PeftsweepError):
            return type(error)(f"{self.node}: {error}")
        told = WorkerError(f"{self.node}: {type(error).__name__}: {error}")
        told.add_note(f"In the worker on {self.node}:\n{traceback.format_exc()}")
        return told


def _among_all(device: torch.device) -> torch.device:
    """The device by its number among all GPUs of the machine. Ray shows a worker only its own."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    return torch.device("cuda", int(shown)) if device.type == "cuda" and shown.isdecimal() else device


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__

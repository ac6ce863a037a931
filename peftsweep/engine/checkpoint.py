"""What is a checkpoint? A slot's state in a folder that is written aside and renamed, so that it is complete.

trial-0007/checkpoint-000042-01/
    state.json            step, losses, evaluations, seconds
    state.safetensors     weights and optimizer vectors, unpadded: they fit a pack of any width
    best.safetensors      the weights of the best evaluation
    logits.safetensors    its logits on the validation split

`Checkpoints` in checkpoints.py decides when one is written. A complete trial's adapter is another thing:
study/artifacts.py writes it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from peftsweep.engine.host_copies import HostCopies
from peftsweep.engine.slot import BestEvaluation, Slot
from peftsweep.engine.slot_weights import SlotParameters
from peftsweep.engine.trial import Evaluation
from peftsweep.system import json_files, plain_files
from peftsweep.system.atomic_files import replaced
from peftsweep.system.umask import umask_permissions

STATE = "state.json"
TENSORS = "state.safetensors"
BEST = "best.safetensors"
LOGITS = "logits.safetensors"


@dataclass(frozen=True)
class State:
    """What `state.json` holds."""

    trial: int
    step: int
    loss_sum: float
    loss_count: int
    seconds: float
    evaluations: tuple[Evaluation, ...]


_STATE = TypeAdapter(State)


@dataclass(frozen=True)
class Snapshot:
    """A slot's state in host memory, as it was after one of its steps.

    Attributes:
        folder: where it is to be written.
        tensors: weights and moments, by `kind|path:parameter`.
        best: the weights of the best evaluation so far, and its logits; None before the first evaluation.
    """

    folder: Path
    state: State
    tensors: dict[str, Tensor]
    best: BestEvaluation | None


def snapshot(slot: Slot, host: HostCopies) -> Snapshot:
    """Copy a slot's state to host memory."""
    stack, params = host.stack, slot.trial.params
    tensors = {
        f"{kind}|{name}": part
        for kind, matrix in _matrices(stack).items()
        for name, part in host.of(matrix, slot.index, params).items()
    }
    state = State(slot.trial.number, slot.step, slot.loss_sum, slot.loss_count, slot.seconds, tuple(slot.evaluations))
    folder = slot.trial.folder / f"checkpoint-{slot.step:06d}-{len(slot.evaluations):02d}"
    return Snapshot(folder, state, tensors, slot.best_kept)


def write(taken: Snapshot) -> None:
    """Write a checkpoint, then remove older ones.

    Raises:
        OSError: the disk is full or cannot be written. The older checkpoint is still there then.
    """
    folder = taken.folder
    if folder.exists():
        return
    with replaced(folder) as aside:
        aside.mkdir(parents=True)
        _fill(aside, taken)
    _fsync([folder.parent])
    for old in folder.parent.glob("*checkpoint-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)


def _fill(folder: Path, taken: Snapshot) -> None:
    with umask_permissions(folder / TENSORS) as file:
        save_file(_separate(taken.tensors), file)
    if taken.best is not None:
        with umask_permissions(folder / BEST) as file:
            save_file(_separate(taken.best.weights), file)
        with umask_permissions(folder / LOGITS) as file:
            save_file({"logits": torch.from_numpy(np.ascontiguousarray(taken.best.logits))}, file)
    (folder / STATE).write_text(json.dumps(asdict(taken.state), indent=1))
    _fsync([*folder.iterdir(), folder])


def _separate(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of views of one row, for a file cannot hold tensors that share memory."""
    return {name: part.clone(memory_format=torch.contiguous_format) for name, part in parts.items()}


def newest(folder: Path) -> Path | None:
    """The newest readable checkpoint of a trial. Without one, the trial starts from its seed."""
    return next((found for found in sorted(folder.glob("checkpoint-*"), reverse=True) if _is_complete(found)), None)


def _is_complete(folder: Path) -> bool:
    """Whether no file is truncated or missing, as after a disk failure or an interrupted copy."""
    try:
        for name in (TENSORS, *((BEST, LOGITS) if _state(folder).evaluations else ())):
            plain_files.check(folder / name)
            with safe_open(folder / name, "pt"):  # compares the header with the file's size
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    return True


def _state(folder: Path) -> State:
    """Raises:
    OSError, ValueError: the file is missing or is no valid state.
    """
    return _STATE.validate_python(json_files.read(folder / STATE))


def _fsync(paths: Iterable[Path]) -> None:
    """Flush files to disk: after a loss of power, either this checkpoint is complete or the one before it is there."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def restore(slot: Slot, stack: SlotParameters, folder: Path) -> None:
    """Load a checkpoint into a slot in which its trial was started. This allocates no GPU memory, which other slots may
    have filled."""
    state = _state(folder)
    tensors = load_file(folder / TENSORS)
    for kind, matrix in _matrices(stack).items():
        row = torch.zeros(matrix.shape[1])
        for name, part in stack.split(slot.index, row, slot.trial.params).items():
            part.copy_(tensors[f"{kind}|{name}"])
        matrix[slot.index].copy_(row)
    slot.step, slot.seconds = state.step, state.seconds
    slot.loss_sum, slot.loss_count = state.loss_sum, state.loss_count
    slot.evaluations = list(state.evaluations)
    if slot.evaluations:
        slot.best_kept = BestEvaluation(load_file(folder / BEST), load_file(folder / LOGITS)["logits"].numpy())


def _matrices(stack: SlotParameters) -> dict[str, Tensor]:
    return {"weights": stack.weights, **stack.moments}

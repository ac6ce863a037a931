"""How is a slot saved and restored? In a folder that is written aside and renamed, so that it is complete.

trial-0007/checkpoint-000042-01/
    state.json            step, losses, evaluations, seconds
    state.safetensors     weights and optimizer vectors, unpadded: they fit a pack of any width
    best.safetensors      the weights of the best evaluation
    logits.safetensors    its logits on the validation split

A complete trial's adapter is another thing: study/artifacts.py writes it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from peftsweep.engine.slot import Slot
from peftsweep.engine.slot_weights import SlotParameters
from peftsweep.engine.trial import Evaluation
from peftsweep.system import json_files, plain_files
from peftsweep.system.atomic_files import replaced
from peftsweep.system.links import link_or_copy
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


def save(slot: Slot, stack: SlotParameters) -> None:
    """Write the slot's checkpoint, then remove older ones.

    Raises:
        OSError: the disk is full or cannot be written. The older checkpoint is still there then.
    """
    folder = slot.trial.folder / f"checkpoint-{slot.step:06d}-{len(slot.evaluations):02d}"
    if folder == slot.saved:
        return
    try:
        with replaced(folder) as aside:
            aside.mkdir(parents=True)
            _write(slot, stack, aside)
        _fsync([folder.parent])
    except SafetensorError as error:
        if "os error 28" in str(error):  # how safetensors reports a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise
    slot.saved = folder
    for old in slot.trial.folder.glob("*checkpoint-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)


def _write(slot: Slot, stack: SlotParameters, folder: Path) -> None:
    rows = {name: matrix[slot.index].cpu() for name, matrix in _matrices(stack).items()}
    with umask_permissions(folder / TENSORS) as file:
        save_file(_named(slot, stack, rows), file)
    best = slot.best
    if best is not None and best.step == slot.step:
        with umask_permissions(folder / BEST) as file:
            save_file(_named(slot, stack, {"": rows["weights"]}), file)
        with umask_permissions(folder / LOGITS) as file:
            save_file({"logits": torch.from_numpy(np.ascontiguousarray(slot.best_logits))}, file)
    elif best is not None and slot.saved is not None:
        for name in (BEST, LOGITS):
            link_or_copy(slot.saved / name, folder / name)
    state = State(slot.trial.number, slot.step, slot.loss_sum, slot.loss_count, slot.seconds, tuple(slot.evaluations))
    (folder / STATE).write_text(json.dumps(asdict(state), indent=1))
    _fsync([*folder.iterdir(), folder])


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
        slot.best_logits = load_file(folder / LOGITS)["logits"].numpy()
    slot.saved = folder


def best_weights(slot: Slot) -> dict[str, NDArray[Any]]:
    """The weights of the slot's best evaluation, by `path:parameter`. They must have been saved in a checkpoint."""
    assert slot.saved is not None
    return {key: value.numpy() for key, value in load_file(slot.saved / BEST).items()}


def _matrices(stack: SlotParameters) -> dict[str, Tensor]:
    return {"weights": stack.weights, **stack.moments}


def _named(slot: Slot, stack: SlotParameters, rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """Unpadded copies of the row vectors, by `kind|path:parameter` (`path:parameter` where the kind is empty)."""
    return {
        f"{kind}|{name}" if kind else name: part.contiguous().clone()
        for kind, row in rows.items()
        for name, part in stack.split(slot.index, row, slot.trial.params).items()
    }

"""A slot on disk: safetensors and JSON, written aside and renamed, so that a folder that is there is whole.

trial-0007/checkpoint-000042-01/
    state.json            step, losses, evaluations, seconds
    state.safetensors     weights and optimizer vectors, unpadded: they fit a pack of any width
    best.safetensors      the weights of the best evaluation
    logits.safetensors    its logits on the validation split
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from peftsweep.engine.slot import Slot
from peftsweep.engine.stack import Stack
from peftsweep.engine.trial import Evaluation

BEST = "best.safetensors"
LOGITS = "logits.safetensors"


def save(slot: Slot, stack: Stack) -> None:
    """Write the slot's checkpoint; older ones go once it stands.

    Raises:
        OSError: the disk is full or cannot be written; the older checkpoint is still there then.
    """
    folder = slot.trial.folder / f"checkpoint-{slot.step:06d}-{len(slot.evaluations):02d}"
    if folder == slot.saved:
        return
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        rows = {"weights": stack.weights[slot.index], **slot.optimizer_rows()}
        save_file(_named(slot, stack, rows), aside / "state.safetensors")
        best = slot.best
        if best is not None and best.step == slot.step:
            save_file(_named(slot, stack, {"": stack.weights[slot.index]}), aside / BEST)
            save_file({"logits": torch.from_numpy(slot.best_logits)}, aside / LOGITS)
        elif best is not None and slot.saved is not None:
            for name in (BEST, LOGITS):
                _share(slot.saved / name, aside / name)
        state = {
            "trial": slot.trial.number,
            "step": slot.step,
            "loss_sum": slot.loss_sum,
            "loss_count": slot.loss_count,
            "seconds": slot.seconds,
            "optimizer": sorted(rows.keys() - {"weights"}),
            "evaluations": [asdict(evaluation) for evaluation in slot.evaluations],
        }
        (aside / "state.json").write_text(json.dumps(state, indent=1))
        if folder.exists():  # left by a process that died before it could say so
            shutil.rmtree(folder)
        aside.rename(folder)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, SafetensorError) and "os error 28" in str(error):  # its own kind for a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise
    slot.saved = folder
    for old in slot.trial.folder.glob("*checkpoint-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a trial, if there is one."""
    return max(folder.glob("checkpoint-*"), default=None)


def restore(slot: Slot, stack: Stack, folder: Path) -> None:
    """Put a checkpoint into a slot whose trial has been started there."""
    state = json.loads((folder / "state.json").read_text())
    tensors = load_file(folder / "state.safetensors", device=str(stack.weights.device))
    rows = {}
    for kind in ("weights", *state["optimizer"]):
        rows[kind] = torch.zeros_like(stack.weights[slot.index])
        for name, part in stack.split(slot.index, rows[kind], slot.trial.params).items():
            part.copy_(tensors[f"{kind}|{name}"])
    stack.weights[slot.index].copy_(rows.pop("weights"))
    slot.step, slot.seconds = state["step"], state["seconds"]
    slot.loss_sum, slot.loss_count = state["loss_sum"], state["loss_count"]
    slot.evaluations = [Evaluation(**evaluation) for evaluation in state["evaluations"]]
    if slot.evaluations:
        slot.best_logits = load_file(folder / LOGITS)["logits"].numpy()
    slot.undecided = slot.evaluated
    slot.saved = folder
    if rows:
        slot.restore_optimizer(rows)


def _named(slot: Slot, stack: Stack, rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """Unpadded copies of the row vectors, by `kind|path:parameter` (`path:parameter` where the kind is empty)."""
    return {
        f"{kind}|{name}" if kind else name: part.detach().cpu().contiguous().clone()
        for kind, row in rows.items()
        for name, part in stack.split(slot.index, row, slot.trial.params).items()
    }


def _share(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # a file system without hard links
        shutil.copyfile(old, new)

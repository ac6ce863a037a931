"""When is which slot saved? One after the other, while training goes on; a thread writes the files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peftsweep.engine import checkpoint
from peftsweep.engine.host_copies import HostCopies
from peftsweep.engine.slot import BestEvaluation, Slot
from peftsweep.engine.slot_weights import SlotParameters
from peftsweep.engine.trial import Trial

CHECKPOINT_EVERY = 60.0  # seconds: a kill costs at most so much of a trial's training
DISK_SHARE = 0.25  # largest share of the time that the disk writes checkpoints


class Checkpoints:
    """Saves the slots of a pack.

    A step saves at most one slot, the one whose checkpoint is oldest, once it is `every` seconds old. The step waits
    only for the copy to host memory. While a slot is being written no other is copied, and on a slow disk the writer
    pauses after each: then checkpoints are further apart.

    Args:
        every: seconds between two checkpoints of a slot.
    """

    def __init__(self, stack: SlotParameters, every: float = CHECKPOINT_EVERY) -> None:
        self.every, self.host = every, HostCopies(stack)
        self._saved: dict[Path, float] = {}  # by the trial's folder: when it was last saved, or came
        self._changed = threading.Condition()
        self._waiting: list[checkpoint.Snapshot] = []
        self._writing: Path | None = None  # the folder of the trial that is being written
        self._pause_until = 0.0
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def keep_best(self, slot: Slot, logits: NDArray[np.float32]) -> None:
        """After an evaluation: if it is the trial's best, keep weights and logits in host memory."""
        if slot.best is slot.evaluations[-1]:
            weights = self.host.of(self.host.stack.weights, slot.index, slot.trial.params)
            slot.best_kept = BestEvaluation(weights, logits)

    def step(self, slots: Callable[[], Sequence[Slot]], settle: Callable[[], object]) -> None:
        """Save one of these slots, if one is due.

        Args:
            settle: called before, so that the slot's state is complete; it may end trials.

        Raises:
            OSError: a checkpoint could not be written, for instance because the disk is full.
        """
        self._raise_error()
        now = time.monotonic()
        for slot in slots():
            self._saved.setdefault(slot.trial.folder, now)
        if self._waiting or self._writing is not None or now < self._pause_until:
            return
        if any(self._is_due(slot, now) for slot in slots()):
            settle()
            due = [slot for slot in slots() if self._is_due(slot, now)]
            if due:
                self._put(min(due, key=lambda slot: self._saved[slot.trial.folder]))

    def _is_due(self, slot: Slot, now: float) -> bool:
        return self._saved[slot.trial.folder] + self.every <= now

    def save(self, slots: Sequence[Slot]) -> None:
        """Save all of these slots, and wait until they are written.

        Raises:
            OSError: see `step`.
        """
        for slot in slots:
            self._put(slot)
        self.finish()
        self._raise_error()

    def left(self, trial: Trial) -> None:
        """A trial has left its slot, and needs no checkpoint any more. If one is being written, this waits for it: once
        the study knows that the trial has ended, it removes the folder."""
        self._saved.pop(trial.folder, None)
        with self._changed:
            self._waiting = [taken for taken in self._waiting if taken.folder.parent != trial.folder]
            self._changed.wait_for(lambda: self._writing != trial.folder)

    def finish(self) -> None:
        """Wait until everything is written."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and self._writing is None)

    def _put(self, slot: Slot) -> None:
        taken = checkpoint.snapshot(slot, self.host)
        self._saved[slot.trial.folder] = time.monotonic()
        with self._changed:
            self._waiting.append(taken)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._write_all, name="checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _write_all(self) -> None:
        """Write what waits, and end when nothing has waited for a while: a thread that nobody needs would keep the
        pack's memory."""
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: bool(self._waiting), timeout=1.0):
                    self._thread = None
                    return
                taken = self._waiting.pop(0)
                self._writing = taken.folder.parent
            began = time.monotonic()
            try:
                checkpoint.write(taken)
            except Exception as error:  # the next step raises it
                self._error = error
            took = time.monotonic() - began
            with self._changed:
                self._writing = None
                self._pause_until = time.monotonic() + took * (1 / DISK_SHARE - 1)
                self._changed.notify_all()

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

"""Where does a worker on another machine keep checkpoints? In the study's folder if it sees it, else on its own disk.

A trial whose worker is lost continues from its checkpoint on a worker that finds it. On others it starts from its seed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from peftsweep.engine import Command, Event, ScoreTrial, StartTrials, Trial, TrialEnded
from peftsweep.system import plain_files

LONGEST = 10_000  # bytes of a landmark
DAYS = 14  # after which a trial's checkpoints on a node are taken for forgotten


@dataclass(frozen=True)
class Landmark:
    """A file in the study's folder, by which a worker tells whether its machine sees that folder or a copy."""

    file: Path
    content: bytes
    inode: int
    changed: int

    @classmethod
    def of(cls, file: Path) -> Landmark:
        """
        Raises:
            OSError, ValueError: it cannot be read.
        """
        file = file.absolute()
        status = file.stat()
        return cls(file, plain_files.read(file, LONGEST), status.st_ino, status.st_mtime_ns)

    def is_seen(self) -> bool:
        try:
            return Landmark.of(self.file) == self
        except (OSError, ValueError):
            return False


class CheckpointFolders:
    """
    Attributes:
        shared: whether this machine sees the study's folder.
        folder: in which each trial has a folder.
    """

    def __init__(self, landmark: Landmark) -> None:
        self.shared = landmark.is_seen()
        self.folder = landmark.file.parent
        if not self.shared:
            root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "peftsweep" / "checkpoints"
            remove_forgotten(root)
            self.folder = root / hashlib.sha256(landmark.content).hexdigest()[:16]

    def here(self, commands: Sequence[Command]) -> list[Command]:
        """The commands, with folders of this machine."""
        return [self._here(command) for command in commands]

    def _here(self, command: Command) -> Command:
        match command:
            case StartTrials(trials):
                return replace(command, trials=tuple(map(self._moved, trials)))
            case ScoreTrial(trial):
                return replace(command, trial=self._moved(trial))
        return command

    def _moved(self, trial: Trial) -> Trial:
        return replace(trial, folder=self.folder / trial.folder.name)

    def tidy(self, events: Sequence[Event]) -> None:
        """Remove the checkpoints of trials that have ended. Where the study's process sees them, it does so itself."""
        for event in () if self.shared else events:
            if isinstance(event, TrialEnded):
                shutil.rmtree(event.trial.folder, ignore_errors=True)


def remove_forgotten(root: Path) -> None:
    """Remove the checkpoints of sweeps that ended elsewhere or were never continued."""
    long_ago = time.time() - DAYS * 24 * 3600
    for folder in root.glob("*/*"):
        with suppress(OSError):  # another worker of this machine has removed it
            if folder.lstat().st_mtime < long_ago:
                shutil.rmtree(folder, ignore_errors=True)

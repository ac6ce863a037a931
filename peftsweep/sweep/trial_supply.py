"""Which trial does a free slot get? First those that a dead process left, then new ones from Optuna."""

from __future__ import annotations

import math
import shutil
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import optuna

from peftsweep.config import StudyConfig, TrainConfig
from peftsweep.engine import Trial
from peftsweep.errors import StorageError
from peftsweep.safe_text.quoting import quoted
from peftsweep.storage import OWNER, StoredStudy, Studies, TrialRecord, owner, restore, write_trial
from peftsweep.study import Ledger, artifacts, exhausted, samplers, space
from peftsweep.study.trial_files import trial_folder
from peftsweep.sweep.trial_params import UntrainableError, complete
from peftsweep.system.folders import inside
from peftsweep.tracking import now

MayBegin = Callable[[int | None], bool]


class Offer(NamedTuple):
    """A trial to be trained, and whether an earlier process began it."""

    asked: optuna.Trial
    resumed: bool


class TrialSupply:
    """The trials of a study that are still to be trained.

    Args:
        timeout: seconds from `begin` after which no new trial starts; None for no limit.

    Attributes:
        total: number of trials that the study shall have, including earlier runs.
        folder: of the study's artifacts.
        ledger: counts and orders of the study's trials.
        orphans: trials that a dead process left.
    """

    def __init__(
        self, config: StudyConfig, study: StoredStudy, studies: Studies, total: int, timeout: float | None = None
    ) -> None:
        self.config, self.study, self.studies = config, study, studies
        self.total = total
        self.timeout, self.deadline = timeout, math.inf
        self.folder = studies.own_folder(config.name)
        self.owner = owner(self.folder)
        self.ledger = Ledger(study)
        self.orphans = deque(trial.number for trial in studies.orphans(study))

    def begin(self) -> None:
        """The first worker comes. The study may have waited for others."""
        if self.timeout is not None:
            self.deadline = min(self.deadline, time.monotonic() + self.timeout)

    def complete_orphans(self) -> None:
        """Give orphans the parameters that they lack. This must come before any trial ends: the draw depends on which
        have ended."""
        for number in self.orphans:
            with suppress(UntrainableError):
                self.complete(self.studies.adopt(self.study, number))

    def trials(self) -> list[TrialRecord]:
        return self.study.records()

    def trial(self, number: int) -> TrialRecord:
        """
        Raises:
            StorageError: it cannot be read.
        """
        found = self.study.trial(number)
        if isinstance(found, str):
            raise StorageError(f"study {quoted(self.config.name)}: trial {number} cannot be read: {found}")
        return found

    def left(self) -> int:
        """Number of trials still to be trained: orphans, and those not asked for yet."""
        return len(self.orphans) + max(0, self.total - self.ledger.begun)

    def upcoming(self) -> int:
        """Number of trials that will still start."""
        return len(self.orphans) if self.is_late() else self.left()

    def has_work(self) -> bool:
        """Whether trials are left, and the search can offer them, whatever the time."""
        return bool(self.orphans) or (self.total > self.ledger.begun and not self.is_exhausted())

    def is_exhausted(self) -> bool:
        """Whether the search has no new trial to offer."""
        return exhausted(self.config, self.study)

    def candidates(self, end: Literal["low", "high"]) -> list[TrainConfig]:
        """Hyperparameters at the limits of what trials may have."""
        return space.candidates(self.config, end)

    def is_late(self) -> bool:
        """Whether the time is over in which new trials start."""
        return time.monotonic() >= self.deadline

    def has_more(self, may_begin: MayBegin = lambda number: True) -> bool:
        """Whether there is a next trial now: orphans even after the deadline, others before it."""
        return any(map(may_begin, self.orphans)) or (may_begin(None) and self.has_new())

    def has_new(self) -> bool:
        """Whether a new trial may start now."""
        return not self.is_late() and self.total > self.ledger.begun and not self.is_exhausted()

    def next(self, may_begin: MayBegin = lambda number: True) -> Offer | None:
        """The next trial; None if there are no more.

        Args:
            may_begin: whether an orphan of this number, or a new trial (None), may begin now.
        """
        orphan = next(filter(may_begin, self.orphans), None)
        if orphan is not None:
            self.orphans.remove(orphan)
            return Offer(self.studies.adopt(self.study, orphan), resumed=True)
        if not (may_begin(None) and self.has_new()):
            return None
        asked = self.ask()
        write_trial(asked, began=now())
        return Offer(asked, resumed=False)

    def start(self, offer: Offer) -> Trial:
        """Record that a trial starts or resumes, and with which hyperparameters.

        Raises:
            UntrainableError: it cannot be trained.
        """
        asked, resumed = offer
        params = self.config.hyperparameters(space.decode(self.config, self.complete(asked)))
        seed, folder = self.seed(asked), self.trial_folder(asked.number)
        if self.owner is not None and restore(self.folder, self.owner):
            self.studies.warn(
                f"{self.folder / OWNER} is gone: somebody has deleted files of this study. Scores are kept, and the "
                "sweep goes on; adapters that are lost come back only from a copy of that folder"
            )
        if resumed:
            known = self.trial(asked.number)
            write_trial(asked, pauses=[*known.pauses, artifacts.pause(known, folder)])
        else:  # a deleted database may have left the folder of a trial with this number
            shutil.rmtree(folder, ignore_errors=True)
        write_trial(asked, params=space.described(self.config, params), seed=seed)
        return Trial(asked.number, seed, params, folder)

    # What a supply of seeds does in another way ----------------------------------------------------------------------

    def ask(self) -> optuna.Trial:
        """A new trial, or one that was enqueued. It only has the parameters that a person gave it."""
        return self.study.ask()

    def complete(self, asked: optuna.Trial) -> dict[str, Any]:
        """Give a trial the parameters that it lacks, and return all.

        Raises:
            UntrainableError: it cannot be trained.
        """
        return complete(self.studies, self.config, asked, self.record(asked).params)

    def seed(self, asked: optuna.Trial) -> int:
        """The seed of a trial's first weights, order of batches and dropout."""
        return samplers.trial_seed(self.config.train.seed, asked.number)

    def record(self, asked: optuna.Trial) -> TrialRecord:
        """The record of a trial that is to be trained.

        Raises:
            UntrainableError: it has a value that no sweep writes.
        """
        if why := self.study.why_unreadable(asked.number):
            raise UntrainableError([f"it cannot be read: {why}"])
        return self.trial(asked.number)

    def trial_folder(self, number: int) -> Path:
        """A trial's folder. If a link leads out of the study's folder, this raises StorageError."""
        return inside(self.folder, trial_folder(self.folder, number))

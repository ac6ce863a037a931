"""How does a sweep write to a tracker without waiting for it? Updates wait in a queue that one thread empties."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from peftsweep.errors import TrackingError
from peftsweep.safe_text.secrets import masked
from peftsweep.tracking.run_names import trial_name
from peftsweep.tracking.sink import (
    COMPARISON,
    PARENT,
    BadAnswerError,
    Outcome,
    Point,
    Sink,
    StudySnapshot,
    TrialSnapshot,
    now,
)
from peftsweep.tracking.spool import Spool
from peftsweep.tracking.waiting import Points, Update, Waiting

PAUSE = 60.0  # seconds before a tracker that did not answer is tried again
PATIENCE = 10.0  # seconds that `close` waits for an answer
TIMEOUT = 60.0  # seconds that `close` waits in total, for a tracker that answers slowly
WAITING = 20_000  # most updates that wait for a tracker; beyond that, points of curves are dropped
NOTES = 3  # most warnings, not counting the summary at the end


class Tracker:
    """Writes a study to a tracker through a queue: every call returns at once, and none fails. Points of a run that
    wait at the same time are written together.

    While the tracker does not answer, updates wait in the queue and are tried again every minute. Each keeps the time
    at which it happened.

    Args:
        sink: the tracker. From now on only this queue uses it.
        note: called from any thread with a warning of one line: once per cause, and at the end if anything was not
            written.

    Attributes:
        name: of the tracker, for messages.
        lost: number of updates that the tracker refused, or that found the queue full. They are not tried again.
        problem: the latest problem with the tracker, in one line.
    """

    def __init__(self, sink: Sink, *, note: Callable[[str], None]) -> None:
        self._sink, self._note = sink, note
        self.name, self._where = sink.name, f"{sink.name} at {sink.address}"
        self._changed = threading.Condition()
        self._waiting = Waiting()
        self._writer: threading.Thread | None = None
        self._closing = self._resting = False
        self._retry_at = 0.0
        self.lost, self._reason = 0, ""
        self.problem = ""
        self._noted: set[str] = set()
        self._spool = Spool()

    def keep_copies_in(self, folder: Path) -> None:
        """Keep copies of waiting artifacts in this folder of the study's artifacts: they are hard links there. The
        system's temporary folder may be on another disk, or in memory."""
        self._spool.use(folder)

    def rest(self) -> None:
        """Let updates wait until `wake`, or until `close`. MLflow takes seconds to import, beside which a sweep's first
        steps would be slow."""
        self._resting = True

    def wake(self) -> None:
        """Write what waits."""
        if self._resting:
            with self._changed:
                self._resting = False
                self._changed.notify()

    # What the sweep reports -------------------------------------------------------------------------------------------

    def open_study(self, study: StudySnapshot) -> None:
        """Start the study's own run, or continue that of an earlier process."""
        self._put(partial(self._sink.open, study, study.began or now()))

    def has_all(self, study: StudySnapshot, outcome: Outcome, trials: Mapping[int, TrialSnapshot]) -> bool:
        """Whether the tracker has everything that `open_study`, `catch_up` and `end_study` would write, artifacts
        included. Waits for the answer.

        Raises:
            TrackingError: the tracker does not answer, or gives an answer that cannot be used.
        """
        return self._ask(partial(self._sink.has_all, study, outcome, trials))

    def has_page(self, data: str, page: Path, name: str = COMPARISON) -> bool:
        """Whether the tracker has this comparison page, or a newer one of this name, for the studies of this data.
        Waits for the answer.

        Raises:
            TrackingError: as `has_all`.
        """
        return self._ask(partial(self._sink.has_page, data, name, _drawn_at(page)))

    def catch_up(self, trials: Mapping[int, TrialSnapshot], *, whole: bool = False) -> None:
        """Write what earlier processes did not write of these trials, by number: their runs are missing, incomplete
        or still marked as running.

        Args:
            whole: check every point and artifact, even of runs that ended as they should.
        """
        at = now()
        for number, trial in trials.items():  # one update for each trial, so that a refusal loses only that trial
            self._put(partial(self._sink.catch_up, number, trial, at, whole))

    # `at` is the time of the event in milliseconds since 1970, by default now.

    def start_trial(
        self, number: int, *, params: Mapping[str, Any], tags: Mapping[str, str], at: int | None = None, name: str = ""
    ) -> None:
        """Start a trial's run under the study's run, or continue it."""
        key, name = str(number), name or trial_name(number)
        self._put(partial(self._sink.start, key, name, dict(params), dict(tags), at or now()))

    def log(self, number: int, metrics: Mapping[str, float], step: int, at: int | None = None) -> None:
        """Add a point to each of a trial's curves. A step that an earlier process wrote is left unchanged."""
        if len(self._waiting) < WAITING:
            self._put(Points(str(number), [Point(dict(metrics), step, at or now())]))
        else:
            self.lost += 1

    def end_trial(self, number: int, outcome: Outcome, at: int | None = None) -> None:
        """End a trial's run. The outcome's files may be deleted as soon as this returns."""
        self._end(str(number), outcome, at or now())

    def end_study(self, outcome: Outcome, at: int | None = None) -> None:
        """End the study's own run."""
        self._end(PARENT, outcome, at or now())

    def store_page(self, data: str, page: Path, name: str = COMPARISON) -> None:
        """Store a comparison page for the studies of this data; it replaces an earlier one of this name. The file may
        be deleted as soon as this returns."""
        drawn_at = _drawn_at(page)
        for copied in self._copies({name: page}).values():
            self._put(partial(self._sink.store_page, data, copied, drawn_at))

    @property
    def run_ids(self) -> dict[str, str]:
        """Known run ids: the study's own under "parent", each trial's under its number."""
        return dict(self._sink.ids)

    @property
    def in_sync(self) -> bool:
        """Whether everything that was reported has been written. Valid after `close`."""
        return self.lost == 0 and not self._waiting and not self._sink.abandoned

    @property
    def counts(self) -> tuple[int, int]:
        """Number of runs made, and of existing runs that were updated. Valid after `close`."""
        return self._sink.counts()

    def close(self, timeout: float | None = None, patience: float | None = None) -> None:
        """Write the updates that wait, end all runs, and report what was not written.

        Args:
            timeout: give up after this many seconds in total; by default `TIMEOUT`.
            patience: give up after this many seconds without an answer; by default `PATIENCE`. It does not apply while
                a file is being uploaded.
        """
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._retry_at = 0.0  # one more try
            self._changed.notify()
        if self._writer is not None and not self._ended(self._writer, timeout or TIMEOUT, patience or PATIENCE):
            self._sink.abandoned = True
            self._reason = self._reason or "it took too long"
        lost = self.lost + len(self._waiting)
        if lost:
            what = f"{lost} update{'s were' if lost > 1 else ' was'} not written ({self._reason})"
            self._note(f"{self.name}: {what}; peftsweep sync writes what is missing")
        self._spool.remove()

    def abandon(self) -> None:
        """Write nothing more and end no run: another process has taken the runs over."""
        with self._changed:
            self._closing = self._sink.abandoned = True
            self._changed.notify()
        if self._writer is not None:
            self._writer.join(PATIENCE)  # it may be in the middle of a call
        self._spool.remove()

    def _ended(self, writer: threading.Thread, timeout: float, patience: float) -> bool:
        """Wait for the writer; returns False if it did not end in time."""
        began = time.monotonic()
        while writer.is_alive():
            until = min(began + timeout, max(began, self._sink.asked) + patience)
            if time.monotonic() >= until:
                return False
            writer.join(min(0.1, until - time.monotonic()))
        return True

    def _ask(self, question: Callable[[], bool]) -> bool:
        try:
            with self._sink.quiet():
                return question()
        except Exception as raised:
            error = raised
        silent = None if isinstance(error, BadAnswerError) else self._silence()
        raise TrackingError(self._failure(silent or error, silent is None)) from error

    # The queue --------------------------------------------------------------------------------------------------------

    def _put(self, update: Update) -> None:
        with self._changed:
            if self._closing:
                return
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="tracker", daemon=True)
                self._writer.start()
            self._waiting.put(update)
            self._changed.notify()

    def _end(self, key: str, outcome: Outcome, at: int) -> None:
        kept = replace(outcome, artifacts=self._copies(outcome.artifacts))
        self._put(partial(self._sink.end, key, kept, at))

    def _copies(self, artifacts: Mapping[str, Path]) -> dict[str, Path]:
        return {} if self._closing else self._spool.copies(artifacts, self._lose)

    def _write(self) -> None:
        """The writer's thread: updates in their order."""
        with self._sink.quiet():
            while self._ready():
                with self._changed:
                    update = self._waiting.first()
                if self._done(partial(self._write_points, update) if isinstance(update, Points) else update):
                    with self._changed:
                        self._waiting.done()
            if not self._waiting and not self._sink.abandoned and not self._done(self._sink.end_all):
                self.lost += 1

    def _write_points(self, update: Points) -> None:
        """Write points of a run together. If the tracker refuses them, write each by itself, so that only those are
        lost that it refuses."""
        try:
            self._sink.log(update.key, update.points[update.written :])
        except Exception as error:
            if len(update.points) == 1 or not self._sink.is_final(error):
                raise
            for point in update.points[update.written :]:
                try:
                    self._sink.log(update.key, [point])
                except Exception as why:
                    if not self._sink.is_final(why):
                        raise
                    self._lose(why)
                update.written += 1

    def _ready(self) -> bool:
        """Wait until there is an update to try. False: there is nothing more to do."""
        with self._changed:
            while True:
                pause = self._retry_at - time.monotonic()
                if self._sink.abandoned or (self._closing and (pause > 0 or not self._waiting)):
                    return False
                if self._waiting and pause <= 0 and (self._closing or not self._resting):
                    return True
                self._changed.wait(pause if pause > 0 else None)

    def _done(self, update: Callable[[], None]) -> bool:
        """Try an update. False: the tracker did not answer, so it must be tried again."""
        for last in (False, True):
            try:
                update()
            except Exception as raised:
                error = raised  # handled below, for what `_silence` meets is not caused by it
            else:
                break
            if self._sink.abandoned:
                return False
            if last or self._sink.is_final(error):
                self._lose(error)
                break
            if (silent := self._silence()) is not None:
                self._pause(error if isinstance(error, BadAnswerError) else silent)
                return False
        return True

    def _silence(self) -> Exception | None:
        """Why the tracker does not answer now, which says more than what an update met while it fell silent. None: it
        answers."""
        try:
            self._sink.ping()
        except Exception as error:
            return None if self._sink.is_final(error) else error
        return None

    def _pause(self, error: Exception) -> None:
        self._reason = self._cause(error)
        self._retry_at = time.monotonic() + PAUSE
        self.problem = self._failure(error, isinstance(error, BadAnswerError))
        self._warn(f"{self.problem}; the study continues without it")

    def _lose(self, error: Exception) -> None:
        self.lost += 1
        self._reason = self._cause(error)
        if isinstance(error, BadAnswerError):
            self.problem = self._failure(error, True)
        else:
            self.problem = f"{self._where} refused an update ({self._reason})"
        self._warn(self.problem)

    def _failure(self, error: Exception, answers: bool) -> str:
        what = "gives no answer that can be used" if answers else "does not answer"
        return f"{self._where} {what} ({self._cause(error)})"

    def _warn(self, text: str) -> None:
        if not self._sink.abandoned and text not in self._noted and len(self._noted) < NOTES:
            self._noted.add(text)
            self._note(text)

    def _cause(self, error: BaseException) -> str:
        """The innermost cause that means something to a user, in one line and without passwords."""
        while not (isinstance(error, BadAnswerError) or self._sink.is_final(error)):
            if (cause := error.__cause__ or error.__context__) is None:
                break
            error = cause
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
        return masked(first)[:200]


def _drawn_at(page: Path) -> int:
    """Time of the page in milliseconds since 1970."""
    return int(1000 * page.stat().st_mtime)

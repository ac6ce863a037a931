"""The queue between a sweep and MLflow, and the thread that empties it."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from peftsweep.errors import TrackingError
from peftsweep.safe_text.secrets import masked
from peftsweep.system.links import link_or_copy
from peftsweep.system.temporary import TemporaryFolder
from peftsweep.tracking.comparison_run import COMPARISON
from peftsweep.tracking.locations import check
from peftsweep.tracking.mlflow_connection import refused
from peftsweep.tracking.mlflow_logs import hushed
from peftsweep.tracking.mlflow_runs import PARENT, Runs, StudyRun, now, trial_name
from peftsweep.tracking.sink import NonsenseError, Outcome, Parent, Past

PAUSE = 60.0  # seconds before a server that did not answer is asked again
PATIENCE = 10.0  # seconds that `close` waits for an answer
TIMEOUT = 60.0  # seconds that `close` waits in all, for a server that answers slowly
WAITING = 20_000  # updates kept for a server that does not answer; beyond them curves lose points
NOTES = 3  # warnings at most, the summary at the end apart


class Tracker:
    """Writes a study to MLflow, behind a queue: every call returns at once and none fails.

    What finds no server waits in the queue and is tried again every minute, with the time at which it happened.

    Args:
        uri: an SQLite URL, or the address of an MLflow server.
        note: told, from any thread, a warning of one line: once per cause, and at the end if anything is not written.

    Attributes:
        lost: updates that MLflow refused, and points for which there was no room: they are not tried again.
        trouble: the last that there was with MLflow, in a line.
    """

    def __init__(self, uri: str, *, note: Callable[[str], None]) -> None:
        check(uri)
        self._uri, self._note = uri, note
        self._runs = Runs(uri)
        self._changed = threading.Condition()
        self._waiting: deque[Callable[[], None]] = deque()
        self._writer: threading.Thread | None = None
        self._closing = False
        self._retry_at = 0.0
        self.lost, self._reason = 0, ""
        self.trouble = ""
        self._noted: set[str] = set()
        self._spool: Path | None = None  # which the sweep gave
        self._temporary: TemporaryFolder | None = None  # where it gave none
        self._numbers = itertools.count()

    def spool_to(self, folder: Path) -> None:
        """Keep copies of artifacts that wait in this folder, beside them: links, where the system's own folder may be
        another disk, or memory. It is this process's alone; what a killed one left there is removed."""
        shutil.rmtree(folder, ignore_errors=True)
        self._spool = folder

    # What the sweep says ----------------------------------------------------------------------------------------------

    def open_study(self, parent: Parent) -> None:
        """Begin the study's own run, or go on with the one of an earlier process."""
        self._put(partial(self._runs.open, parent, parent.began or now()))

    def holds(self, parent: Parent, outcome: Outcome, trials: Mapping[int, Past]) -> bool:
        """Whether MLflow has all that `open_study`, `settle` and `end_study` would write, artifacts too. It waits
        for the answer.

        Raises:
            TrackingError: there is none, or none that can be used.
        """
        return self._asked(partial(self._runs.holds, parent, outcome, trials))

    def compares(self, experiment: str, page: Path, name: str = COMPARISON) -> bool:
        """Whether MLflow has this page, or a newer one of this name, in the experiment's comparison run. It waits for
        the answer.

        Raises:
            TrackingError: there is none.
        """
        return self._asked(partial(self._runs.compares, experiment, name, _drawn(page)))

    def settle(self, trials: Mapping[int, Past], *, whole: bool = False) -> None:
        """Bring level the runs of trials of earlier processes, by number: left running, left out, or told in part.

        Args:
            whole: look at every point and artifact of those that ended there as they should, too.
        """
        at = now()
        for number, past in trials.items():  # an update each: one that is refused is lost alone
            self._put(partial(self._runs.settle, number, past, at, whole))

    # `at` is when it happened, in milliseconds since 1970; now where it is not given.

    def start_trial(
        self, number: int, *, params: Mapping[str, Any], tags: Mapping[str, str], at: int | None = None, name: str = ""
    ) -> None:
        """Begin a trial's run under its parent, or go on with it."""
        run = StudyRun(str(number), name or trial_name(number), dict(params), dict(tags), at or now())
        self._put(partial(self._runs.start, run))

    def log(self, number: int, metrics: Mapping[str, float], step: int, at: int | None = None) -> None:
        """A point of each of a trial's curves; a step that is there from an earlier process is left as it is."""
        if len(self._waiting) < WAITING:
            self._put(partial(self._runs.log, str(number), dict(metrics), step, at or now()))
        else:
            self.lost += 1

    def end_trial(self, number: int, outcome: Outcome, at: int | None = None) -> None:
        """End a trial's run. The files and folders of the outcome may go as soon as this returns."""
        self._end(str(number), outcome, at or now())

    def end_study(self, outcome: Outcome, at: int | None = None) -> None:
        """End the parent run."""
        self._end(PARENT, outcome, at or now())

    def keep_comparison(self, experiment: str, page: Path, name: str = COMPARISON) -> None:
        """Show a page among the experiment's runs, in place of an earlier one of this name. Its file may go once this
        returns."""
        drawn = _drawn(page)
        for copied in self._copied({name: page}).values():
            self._put(partial(self._runs.compare, experiment, copied, drawn))

    @property
    def run_ids(self) -> dict[str, str]:
        """MLflow's run ids as far as they are known: "parent", and each trial by its number."""
        return dict(self._runs.ids)

    @property
    def level(self) -> bool:
        """Whether everything that was said has been written; to be asked after `close`."""
        return self.lost == 0 and not self._waiting and not self._runs.abandoned

    @property
    def counts(self) -> tuple[int, int]:
        """How many runs were made, and how many that were there were written to; to be asked after `close`."""
        return self._runs.counts()

    def close(self, timeout: float | None = None, patience: float | None = None) -> None:
        """Write what waits, end what still runs, and say what was not written.

        Args:
            timeout: seconds after which it gives up, however much MLflow takes meanwhile; by default `TIMEOUT`.
            patience: seconds after which it gives up if MLflow does not answer; by default `PATIENCE`. A file on its
                way has all the time there is.
        """
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._retry_at = 0.0  # one more try
            self._changed.notify()
        if self._writer is not None and not self._ended(self._writer, timeout or TIMEOUT, patience or PATIENCE):
            self._runs.abandoned = True
            self._reason = self._reason or "it took too long"
        lost = self.lost + len(self._waiting)
        if lost:
            what = f"{lost} update{'s were' if lost > 1 else ' was'} not written ({self._reason})"
            self._note(f"MLflow: {what}; peftsweep sync writes what is missing")
        self._remove_copies()

    def abandon(self) -> None:
        """Write nothing more and end nothing: the runs are another process's by now."""
        with self._changed:
            self._closing = self._runs.abandoned = True
            self._changed.notify()
        self._remove_copies()

    def _ended(self, writer: threading.Thread, timeout: float, patience: float) -> bool:
        """Wait for the writer as long as there is hope."""
        began = time.monotonic()
        while writer.is_alive():
            until = min(began + timeout, max(began, self._runs.asked) + patience)
            if time.monotonic() >= until:
                return False
            writer.join(min(0.1, until - time.monotonic()))
        return True

    def _asked(self, question: Callable[[], bool]) -> bool:
        try:
            with hushed():
                return question()
        except Exception as error:
            what = "gave an answer that cannot be used" if self._answers() else "does not answer"
            raise TrackingError(f"MLflow at {masked(self._uri)} {what} ({self._because(error)})") from error

    # The queue --------------------------------------------------------------------------------------------------------

    def _put(self, update: Callable[[], None]) -> None:
        with self._changed:
            if self._closing:
                return
            if self._writer is None:
                self._writer = threading.Thread(target=hushed()(self._write), name="mlflow", daemon=True)
                self._writer.start()
            self._waiting.append(update)
            self._changed.notify()

    def _end(self, key: str, outcome: Outcome, at: int) -> None:
        kept = replace(outcome, artifacts=self._copied(outcome.artifacts))
        self._put(partial(self._runs.end, key, kept, at))

    def _copied(self, artifacts: Mapping[str, Path]) -> dict[str, Path]:
        """Copies that stay until they have been written, by place."""
        if not artifacts or self._closing:
            return {}
        try:
            folder = self._place() / str(next(self._numbers))
            folder.mkdir()
        except OSError as error:
            self._lose(error)
            return {}
        for place, source in artifacts.items():
            try:
                link_or_copy(source, folder / place)
            except OSError as error:
                self._lose(error)
        return {place: folder / place for place in artifacts}

    def _place(self) -> Path:
        """The folder of the copies, which is there."""
        if self._spool is not None:
            self._spool.mkdir(parents=True, exist_ok=True)
            return self._spool
        if self._temporary is not None and not self._temporary.exists():
            self._remove_copies()
        self._temporary = self._temporary or TemporaryFolder()
        return self._temporary.path

    def _remove_copies(self) -> None:
        if self._spool is not None:
            shutil.rmtree(self._spool, ignore_errors=True)
        if self._temporary is not None:
            self._temporary.remove()
            self._temporary = None

    def _write(self) -> None:
        """The writer's thread: updates in their order."""
        while self._ready():
            if self._done(self._waiting[0]):
                self._waiting.popleft()
        if not self._waiting and not self._runs.abandoned and not self._done(self._runs.end_rest):
            self.lost += 1

    def _ready(self) -> bool:
        """Wait until there is something to try; False when all is over."""
        with self._changed:
            while True:
                pause = self._retry_at - time.monotonic()
                if self._runs.abandoned or (self._closing and (pause > 0 or not self._waiting)):
                    return False
                if self._waiting and pause <= 0:
                    return True
                self._changed.wait(pause if pause > 0 else None)

    def _done(self, update: Callable[[], None]) -> bool:
        """Try an update; False if it is to be tried again, because nobody answered."""
        for last in (False, True):
            try:
                update()
            except Exception as error:
                if self._runs.abandoned:
                    return False
                if last or refused(error):  # it would be the same the next time
                    self._lose(error)
                    break
                if not self._answers():
                    self._pause(error)
                    return False
            else:
                break
        return True

    def _answers(self) -> bool:
        try:
            self._runs.ping()
        except Exception as error:
            return refused(error)
        return True

    def _pause(self, error: Exception) -> None:
        self._reason = self._because(error)
        self._retry_at = time.monotonic() + PAUSE
        what = "gives no answer that can be used" if isinstance(error, NonsenseError) else "does not answer"
        self.trouble = f"MLflow at {masked(self._uri)} {what} ({self._reason})"
        self._say(f"{self.trouble}; the study goes on without it")

    def _lose(self, error: Exception) -> None:
        self.lost += 1
        self._reason = self._because(error)
        self.trouble = f"MLflow at {masked(self._uri)} did not take an update ({self._reason})"
        self._say(self.trouble)

    def _say(self, text: str) -> None:
        if not self._runs.abandoned and text not in self._noted and len(self._noted) < NOTES:
            self._noted.add(text)
            self._note(text)

    def _because(self, error: BaseException) -> str:
        """The innermost cause, in a line and without a password."""
        while not refused(error) and (cause := error.__cause__ or error.__context__) is not None:
            error = cause
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
        return masked(first)[:200]


def _drawn(page: Path) -> int:
    """When it was, in milliseconds since 1970."""
    return int(1000 * page.stat().st_mtime)

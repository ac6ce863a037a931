"""The queue between a sweep and MLflow, and the thread that empties it."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from peftsweep.errors import TrackingError
from peftsweep.masking import masked
from peftsweep.tracking.runs import PARENT, Outcome, Past, Runs, StudyRun, now, refused

PAUSE = 60.0  # seconds before a server that did not answer is asked again
PATIENCE = 10.0  # seconds that `close` waits for a server that did not answer before
WAITING = 20_000  # updates kept for a server that does not answer; beyond them curves lose points
NOTES = 3  # warnings at most, the summary at the end apart


class Tracker:
    """Writes a study to MLflow, behind a queue: every call returns at once and none fails.

    What finds no server waits in the queue and is tried again every minute, with the time at which it happened.

    Args:
        uri: an SQLite URL, or the address of an MLflow server.
        note: told, from any thread, a warning of one line: once per cause, and once at the end if anything was lost.
    """

    def __init__(self, uri: str, *, note: Callable[[str], None]) -> None:
        self._uri, self._note = uri, note
        self._runs = Runs(uri)
        self._changed = threading.Condition()
        self._waiting: deque[Callable[[], None]] = deque()
        self._writer: threading.Thread | None = None
        self._closing = self._given_up = self._down = False
        self._retry_at = 0.0
        self._lost, self._reason = 0, ""
        self._noted: set[str] = set()
        self._spool: Path | None = None

    # What the sweep says ----------------------------------------------------------------------------------------------

    def open_study(
        self,
        name: str,
        *,
        experiment: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        known: Mapping[str, str],
    ) -> None:
        """Begin the parent run, or go on with the one of an earlier process.

        Args:
            known: `run_ids` of an earlier tracker; those that the store does not have any more are made anew.
        """
        run = StudyRun(PARENT, name, dict(params), dict(tags), now())
        self._runs.ids.update(known)
        self._put(partial(self._runs.open, run, experiment))

    def holds(
        self,
        trials: Mapping[int, Past],
        name: str,
        *,
        experiment: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        known: Mapping[str, str],
    ) -> bool:
        """Whether MLflow has all that `open_study` and `settle` would write. This alone waits for its answer.

        Raises:
            TrackingError: there is none.
        """
        self._runs.ids.update(known)
        try:
            return self._runs.holds(StudyRun(PARENT, name, dict(params), dict(tags), now()), experiment, trials)
        except Exception as error:
            raise TrackingError(f"MLflow at {masked(self._uri)} does not answer ({self._because(error)})") from error

    def settle(self, trials: Mapping[int, Past], *, whole: bool = False) -> None:
        """Bring level the runs of trials of earlier processes, by number: left running, left out, or told in part.

        Args:
            whole: those that seem to be level, too.
        """
        self._put(partial(self._runs.settle, dict(trials), now(), whole))

    def start_trial(self, number: int, *, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Begin a trial's run under its parent, or go on with it."""
        run = StudyRun(str(number), f"trial-{number:04d}", dict(params), dict(tags), now())
        self._put(partial(self._runs.start, run))

    def log(self, number: int, metrics: Mapping[str, float], step: int) -> None:
        """A point of each of a trial's curves; a step that is there from an earlier process is left as it is."""
        if len(self._waiting) < WAITING:
            self._put(partial(self._runs.log, str(number), dict(metrics), step, now()))
        else:
            self._lost += 1

    def end_trial(self, number: int, outcome: Outcome) -> None:
        """End a trial's run. The files and folders of the outcome may go as soon as this returns."""
        self._end(str(number), outcome)

    def end_study(self, outcome: Outcome) -> None:
        """End the parent run."""
        self._end(PARENT, outcome)

    @property
    def run_ids(self) -> dict[str, str]:
        """MLflow's run ids as far as they are known: "parent", and each trial by its number."""
        return dict(self._runs.ids)

    @property
    def level(self) -> bool:
        """Whether everything that was said has been written; to be asked after `close`."""
        return self._lost == 0 and not self._waiting

    def close(self, timeout: float = 60) -> None:
        """Write what waits, end what still runs, and say what was lost. Gives up after `timeout` seconds."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._retry_at = 0.0  # one more try
            self._changed.notify()
        if self._writer is not None:
            self._writer.join(min(timeout, PATIENCE) if self._down else timeout)
            if self._writer.is_alive():
                self._given_up = True
                self._reason = self._reason or f"not written within {timeout:.0f} s"
        lost = self._lost + len(self._waiting)
        if lost:
            self._note(f"MLflow: {lost} update{'s were' if lost > 1 else ' was'} lost ({self._reason})")
        if self._spool is not None:
            shutil.rmtree(self._spool, ignore_errors=True)

    # The queue --------------------------------------------------------------------------------------------------------

    def _put(self, update: Callable[[], None]) -> None:
        with self._changed:
            if self._closing:
                return
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="mlflow", daemon=True)
                self._writer.start()
            self._waiting.append(update)
            self._changed.notify()

    def _end(self, key: str, outcome: Outcome) -> None:
        kept = replace(outcome, artifacts=self._copied(outcome.artifacts))
        self._put(partial(self._runs.end, key, kept, now()))

    def _copied(self, artifacts: Mapping[str, Path]) -> dict[str, Path]:
        """Copies that stay until they have been written, by place."""
        if not artifacts or self._closing:
            return {}
        try:
            self._spool = self._spool or Path(tempfile.mkdtemp(prefix="peftsweep-mlflow-"))
            folder = Path(tempfile.mkdtemp(dir=self._spool))
        except OSError as error:
            self._lose(error)
            return {}
        for place, source in artifacts.items():
            try:
                copy(source, folder / place)
            except OSError as error:
                self._lose(error)
        return {place: folder / place for place in artifacts}

    def _write(self) -> None:
        """The writer's thread: updates in their order."""
        while self._ready():
            if self._done(self._waiting[0]):
                self._waiting.popleft()
        if not self._waiting and not self._given_up and not self._done(self._runs.end_rest):
            self._lost += 1

    def _ready(self) -> bool:
        """Wait until there is something to try; False when all is over."""
        with self._changed:
            while True:
                pause = self._retry_at - time.monotonic()
                if self._given_up or (self._closing and (pause > 0 or not self._waiting)):
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
                if last or refused(error):  # it would be the same the next time
                    self._lose(error)
                    break
                if not self._answers():
                    self._pause(error)
                    return False
            else:
                break
        self._down = False
        return True

    def _answers(self) -> bool:
        try:
            self._runs.ping()
        except Exception as error:
            return refused(error)
        return True

    def _pause(self, error: Exception) -> None:
        self._down, self._reason = True, self._because(error)
        self._retry_at = time.monotonic() + PAUSE
        self._say(f"MLflow at {masked(self._uri)} does not answer ({self._reason}); the study goes on without it")

    def _lose(self, error: Exception) -> None:
        self._lost += 1
        self._reason = self._because(error)
        self._say(f"MLflow at {masked(self._uri)} did not take an update ({self._reason})")

    def _say(self, text: str) -> None:
        if not self._given_up and text not in self._noted and len(self._noted) < NOTES:
            self._noted.add(text)
            self._note(text)

    def _because(self, error: BaseException) -> str:
        """The innermost cause, in a line and without a password."""
        while not refused(error) and (cause := error.__cause__ or error.__context__) is not None:
            error = cause
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
        return masked(first)[:200]


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=link)
    else:
        link(source, target)


def link(source: str | Path, target: str | Path) -> None:
    """A second name for the file where the file system can, else a copy."""
    try:
        Path(target).hardlink_to(Path(source).resolve())
    except OSError:
        shutil.copy(source, target)

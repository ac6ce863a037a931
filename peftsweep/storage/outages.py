"""What does a sweep do while its database does not answer? It tries again, for some minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from peftsweep.errors import StorageError, first_line
from peftsweep.safe_text.secrets import masked
from peftsweep.storage.database_errors import AGAIN, may_pass

T = TypeVar("T")

PATIENCE = 300.0  # seconds: a server restarts in some, and a standby takes over in a few minutes
HURRY = 10.0  # seconds after a signal: SLURM gives 120 to end, and workers are still to save checkpoints
PAUSE = 1.0  # seconds between two attempts


def outage(error: BaseException | None) -> str | None:
    """Why a database server does not answer, if that may pass; None for any other error."""
    while error is not None:
        match error:
            case DBAPIError(orig=BaseException() as said) if may_pass(error):
                return masked(first_line(said))
        error = error.__cause__
    return None


class Patience:
    """Repeats what fails because the database does not answer.

    Args:
        url: the storage's, for messages.
        note: called with a line for the user when an outage begins, and when it ends.
        is_stopped: whether a signal has asked the command to end.
    """

    def __init__(self, url: str, note: Callable[[str], object], is_stopped: Callable[[], bool]) -> None:
        self._url, self._note, self._is_stopped = url, note, is_stopped
        self._lasts = False  # whether it has given up, so that nobody else waits as long

    def __call__(self, do: Callable[[], T]) -> T:
        """Do something, again and again until it works. It must be something that may be repeated after an error.

        Raises:
            StorageError: the database has not answered for `PATIENCE` seconds, or since a signal came.
        """
        began: float | None = None
        while True:
            try:
                found = do()
            except Exception as error:
                if (reason := outage(error)) is None:
                    raise
                if began is None:
                    began = time.monotonic()
                    self._say(
                        f"the database does not answer ({reason}); it is tried again for {PATIENCE / 60:.0f} minutes"
                    )
                if self._lasts or time.monotonic() >= began + (HURRY if self._is_stopped() else PATIENCE):
                    self._lasts = True
                    raise StorageError(
                        f"{masked(self._url)}: the database does not answer ({reason}). {AGAIN} when it does"
                    ) from error
                time.sleep(PAUSE)
            else:
                if began is not None:
                    self._say(f"the database answers again, after {time.monotonic() - began:.0f} s")
                self._lasts = False
                return found

    def _say(self, text: str) -> None:
        if not self._lasts:
            self._note(text)

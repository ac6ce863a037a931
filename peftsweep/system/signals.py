"""Signals that end a sweep: at once while there is nothing to lose, else after the step under way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """The end is to be now, by the signal of this number. A kind of its own, for Python remembers each plain
    KeyboardInterrupt that leaves an `exec` (as dataclasses have), and kills itself by SIGINT in the end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Stop:
    """Whether a signal has asked for the end.

    Attributes:
        number: the newest signal; None when there was none.
        patient: whether the first signal is only noted, for there is a step to finish or MLflow to be told.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.patient = False

    @property
    def asked(self) -> bool:
        return self.number is not None

    def hear(self, number: int, frame: FrameType | None) -> None:
        """The handler.

        Raises:
            Stopped: when the end is to be now.
        """
        at_once = self.asked or not self.patient
        self.number = number
        if at_once:
            raise Stopped(number)


@contextmanager
def stopped_by_signals() -> Iterator[Stop]:
    """SIGINT, SIGTERM and SIGHUP are heard, save those that the parent had ignored, as nohup does. Handlers are set
    in the main thread only: Python allows no other."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # None: a handler that was not set from Python, and could not be set again
    heard = [number for number in ENDINGS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, stop.hear) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

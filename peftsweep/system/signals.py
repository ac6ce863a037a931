"""What do SIGINT, SIGTERM and SIGHUP do?

They end a command at once while there is nothing to lose. A sweep ends after the step that is under way; if steps are
short, after up to a second of them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 5.0  # seconds from SIGTERM to SIGKILL, and from there until a group is left to itself


class Stopped(KeyboardInterrupt):
    """A signal ends the command now. It is a class of its own because Python remembers every plain KeyboardInterrupt
    that leaves an `exec` (dataclasses call it), and kills its own process by SIGINT in the end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class StopSignal:
    """Whether a signal has asked the command to end.

    Attributes:
        number: the newest signal; None if there was none.
        finish_step_first: whether the first signal is only noted, because a step or a tracker's run is to be finished.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.finish_step_first = False

    @property
    def asked(self) -> bool:
        return self.number is not None

    @property
    def name(self) -> str:
        """`SIGTERM`; empty if there was none."""
        return "" if self.number is None else signal.Signals(self.number).name

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signals' handler.

        Raises:
            Stopped: the command ends now.
        """
        at_once = self.asked or not self.finish_step_first
        self.number = number
        if at_once:
            raise Stopped(number)


@contextmanager
def stopped_by_signals() -> Iterator[StopSignal]:
    """Handle SIGINT, SIGTERM and SIGHUP inside the block, except those that the parent process ignores, as nohup does.
    Outside the main thread nothing changes, since Python sets handlers there only."""
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # None: a handler that was not set from Python, and could not be set again
    handled = [number for number in ENDING if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, stop.handle) for number in handled}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Hold all three back inside the block; they arrive at its end. A process that is started inside never gets them,
    not even while it imports its modules."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_all() -> None:
    """Ignore all three from now on, if this is the main thread; `stopped_by_signals` puts the handlers back."""
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)


def number_of(ended: KeyboardInterrupt) -> int:
    """The signal that raised it."""
    return ended.number if isinstance(ended, Stopped) else signal.SIGINT


def end_at_once(process: int) -> None:
    """End a process by its number, if it is still there. It cannot refuse."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def end_session(leader: int) -> None:
    """End all processes of the session that a process leads, or has led. They cannot refuse."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(int(folder.name)) == leader:
                os.kill(int(folder.name), signal.SIGKILL)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all others of its group, by force if they do not end by themselves."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + PATIENCE
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
            while time.monotonic() < until:
                process.poll()  # the group is gone only when its leader is reaped
                os.killpg(process.pid, 0)
                time.sleep(0.05)

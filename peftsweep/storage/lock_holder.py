"""Which process holds a study's lease, and what it does: the note that other processes read."""

from __future__ import annotations

import os
import socket
from datetime import datetime
from typing import Literal

from peftsweep.errors import StudyBusyError

HOST = 20  # characters of the host's name: PostgreSQL keeps 63 of the whole note
Doing = Literal["run", "retrain", "sync"]
_FIRST: dict[Doing, str] = {"run": "process", "retrain": "retrain", "sync": "sync"}  # first word of the note
_DONE: dict[Doing, str] = {"run": "run", "retrain": "retrained", "sync": "synced"}


def note(doing: Doing) -> str:
    """`process 1234 on host since 2026-01-31 12:00`, or `retrain 1234 on …`."""
    return f"{_FIRST[doing]} {os.getpid()} on {socket.gethostname()[:HOST]} since {datetime.now():%Y-%m-%d %H:%M}"


def doing_of(note: str) -> Doing:
    """What the process that left this note does; of an empty note, which is being written, `run`."""
    first = note.partition(" ")[0]
    return next((doing for doing, word in _FIRST.items() if word == first), "run")


def is_of(note: str, pid: int, host: str) -> bool:
    """Whether this process left the note."""
    return f" {pid} on {host[:HOST]} " in note


def is_here(note: str) -> bool:
    """Whether a process of this machine left the note."""
    return f" on {socket.gethostname()[:HOST]} since " in note


def busy(name: str, url: str, note: str) -> StudyBusyError:
    _, _, rest = note.partition(" ")
    whom = f"process {rest}" if rest else "another process"
    done = _DONE[doing_of(note)]
    stop = "" if done == "synced" else ", or end it with peftsweep stop"
    return StudyBusyError(f"study {name!r} in {url} is being {done} by {whom}; wait for it to end{stop}")


def overtaken(name: str, url: str) -> StudyBusyError:
    return StudyBusyError(
        f"study {name!r} in {url} was run by another process while this one had lost the connection. What was "
        "finished is kept; give the same command again to go on with what there is now"
    )
